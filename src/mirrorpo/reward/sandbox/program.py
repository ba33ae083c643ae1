"""The side of the sandbox that runs programs: a fork server, and in each of its children one program.

The server gives up what it can do without (files, privileges, memory) once, and its children have given it up
too; each of them gives up the rest, above all the making of processes and their signals.

The server is forked from the judge before any test has been read, so nothing that it or a program can find in
its memory is a test or an expected value. It keeps one locked child ready, which waits for its source. A byte
from the judge kills the child that runs, whatever it does; when that is gone and its folder is empty, the
judge is told how it ended and given the pipes of the one that is ready, and another is made ready: programs
never meet.

Runs inside the sandbox's worker (`judge`), so it may import the standard library and its siblings only.
"""

import _ast
import builtins
import errno
import fcntl
import gc
import importlib
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
import types
from collections.abc import Mapping

from mirrorpo.reward.sandbox import keeper, lock, threads, wire
from mirrorpo.reward.sandbox.wire import Value

REPORT = struct.Struct("<id?")  # wait status, seconds of processor time, whether its folder was too full
CALLS, VALUES = 3, 4  # a program's descriptors
AST_ONLY = 0x400  # compile's flag; the module `ast`, which names it, would cost every program its pages
WATCH_MS = 20  # between two looks at a running program's files
MOST_FILES = 1000
REFUSED = (errno.EPERM, errno.EACCES, errno.EROFS)
LONGEST_CAUSE = 120  # characters
# What most short programs import; a child has it without reading a file. More would slow every fork down.
PRELOADED = (
    "collections", "copy", "functools", "heapq", "itertools", "math",
    "operator", "random", "re", "string", "typing",
)  # fmt: skip


class Server:
    """Makes one program's process after another, each locked before it gets any source.

    Attributes:
        control: to the judge.
        watcher: to the keeper, which sees removed files; None where bubblewrap limits the folder itself.
        cpu_s: seconds of processor time that a program has.
        limits: everything else that a program has, by the names of `resource`.
        folder: the one place that a program may write to; emptied after each.
        folder_bytes: a program that writes more there is killed.
        user: whose rights a program has, where this process is root; -1 leaves root without capabilities.
        rules: Landlock's ruleset, or -1.
        seccomp: whether system calls are filtered.
    """

    def __init__(
        self,
        control: socket.socket,
        watcher: socket.socket | None,
        settings: Mapping[str, Value],
        *,
        landlock: int,
        seccomp: bool,
    ) -> None:
        self.control, self.watcher, self.user = control, watcher, settings["user"]
        self.folder, self.folder_bytes = settings["folder"], settings["folder_bytes"]
        self.cpu_s, self.limits = settings["cpu_s"], settings["limits"]
        self.rules = lock.landlock_rules(settings["readable"], settings["listable"], [self.folder], landlock)
        self.seccomp = seccomp
        self._filter: lock.Filter | None = None
        self._threads: threads.Threads | None = None
        self._kept: list[int] = []  # descriptors of this process, which no program has; the judge's first
        self._poller = select.poll()

    def serve(self) -> None:
        """The server's loop; ends with the judge."""
        parent = os.getppid()
        lock.die_with_parent()
        lock.adopt_orphans()
        self._forget_surroundings()
        # `random` would seed itself anew in every child; the draws are to be the same for every program,
        # whichever worker it falls to.
        register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
        for name in PRELOADED:
            importlib.import_module(name)
        os.register_at_fork = register
        sys.modules["random"].seed(0)
        os.chdir(self.folder)
        os.umask(0o077)
        self._raise_descriptors()
        lock.forgo_privileges()
        lock.drop_privileges(self.user)
        lock.die_with_parent()  # anew, since a change of user clears it
        if os.getppid() != parent:
            return
        lock.hide_memory()
        lock.limit({getattr(resource, name): value for name, value in self.limits.items()})
        if self.rules >= 0:
            lock.restrict(self.rules)
        if self.seccomp:
            self._threads = threads.Threads()
            filtered = lock.seccomp_filter(os.uname().machine, threads=self._threads.listener >= 0)
            self._filter = lock.prepared(filtered)
        self._keep_descriptors()
        gc.collect()
        gc.freeze()
        report = REPORT.pack(0, 0.0, False)
        ready = self._spawn()
        while True:
            pid, *pipes = ready
            socket.send_fds(self.control, [report], pipes)
            for pipe in pipes:
                os.close(pipe)
            ready = self._spawn()
            crowded = self._watch(pid)
            report = REPORT.pack(*self._end(pid, ready[0]), crowded)
            empty(self.folder)

    def _raise_descriptors(self) -> None:
        # Descriptors of the program come first, so that nothing of the server's stands in their place.
        sockets = [self.control, *([self.watcher] if self.watcher else [])]
        kept = [each.fileno() for each in sockets] + [self.rules] * (self.rules >= 0)
        raised = [fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, VALUES + 4) for low in kept]
        self.control = socket.socket(fileno=raised[0])
        self.watcher = socket.socket(fileno=raised[1]) if self.watcher else None
        self.rules = raised[-1] if self.rules >= 0 else -1
        for each in sockets:
            each.detach()
        for first, last in zip([CALLS - 1, *sorted(raised)], [*sorted(raised), 4096], strict=True):
            os.closerange(first + 1, last)

    def _keep_descriptors(self) -> None:
        self._kept = [self.control.fileno()]
        self._poller.register(self.control, select.POLLIN)
        if self._threads is not None and self._threads.listener >= 0:
            self._kept.append(self._threads.listener)
            self._poller.register(self._threads.listener, select.POLLIN)
        if self.watcher is not None:
            self._kept.append(self.watcher.fileno())

    def _forget_surroundings(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.environ.clear()
        os.environ["TMPDIR"] = self.folder

    def _spawn(self) -> tuple[int, int, int]:
        calls_out, calls_in = os.pipe()
        values_out, values_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._enter(calls_out, values_in, calls_in, values_out, *self._kept)
                drive(CALLS, VALUES)
            finally:
                os._exit(70)
        os.close(calls_out)
        os.close(values_in)
        resource.prlimit(pid, resource.RLIMIT_CPU, (self.cpu_s, self.cpu_s))
        return pid, calls_in, values_out

    def _enter(self, calls: int, values: int, *others: int) -> None:
        # As little as can be: every page that a new process touches costs it a few microseconds.
        for descriptor in others:
            os.close(descriptor)
        os.dup2(calls, CALLS)
        os.dup2(values, VALUES)
        for descriptor in {calls, values} - {CALLS, VALUES}:
            os.close(descriptor)
        lock.die_with_parent()
        if self.watcher is not None:
            lock.show_memory()
        if self._filter is None:
            os.setsid()  # its group's signals are its own
        else:
            lock.install(self._filter)

    def _watch(self, pid: int) -> bool:
        # Until the judge has done with the program, which dies earlier if it keeps too much on disk. For one
        # that ends at once as little as can be: a page that is written behind a fork has to be copied.
        ready = self._poller.poll(WATCH_MS)
        if len(ready) == 1 and ready[0][0] == self._kept[0]:
            self.control.recv(1)
            return False
        return self._watch_closely(pid, dict(ready))

    def _watch_closely(self, pid: int, ready: dict[int, int]) -> bool:
        if self._threads is not None:
            self._threads.begin()
        due = time.monotonic() + (WATCH_MS / 1000 if ready else 0)
        looked_at, crowded = 0.0, False
        while True:
            if self._kept[0] in ready:
                self.control.recv(1)
                return crowded
            if ready and self._threads is not None:
                self._threads.answer(pid)
            if not crowded and time.monotonic() >= due:
                # What did not run since has written nothing.
                looked_before, looked_at = looked_at, _processor_time(pid)
                if looked_at != looked_before:
                    crowded = size(self.folder) + self._held(pid) > self.folder_bytes
                if crowded:
                    os.kill(pid, signal.SIGKILL)
                due = time.monotonic() + WATCH_MS / 1000
            ready = dict(self._poller.poll(max(due - time.monotonic(), 0) * 1000))

    def _held(self, pid: int) -> int:
        # Bytes of removed files that a program keeps.
        if self.watcher is None:
            return 0
        self.watcher.sendall(keeper.PID.pack(pid))
        return keeper.BYTES.unpack(self.watcher.recv(keeper.BYTES.size))[0]

    def _end(self, pid: int, ready: int) -> tuple[int, float]:
        # Dead or alive it is this process's child until it is waited for, so the number is no one else's.
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        if not self.seccomp:
            # What a program's own children leave comes to this process; with seccomp there are none.
            keeper.end_children(spared=ready)
        return status, usage.ru_utime + usage.ru_stime


def _processor_time(pid: int) -> float:
    # By the clock's number as the C library's clock_getcpuclockid has it; where there is none, time goes on.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return time.monotonic()


def size(folder: str) -> int:
    """Bytes below a folder; beyond any limit if there are too many files to count, or some cannot be seen."""
    total = count = 0
    left = [folder]
    while left:
        path = left.pop()
        try:
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue  # a program may remove what is being read
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue  # or put a link in its place
            return keeper.FULL
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    count += 1
                    if count > MOST_FILES:
                        return keeper.FULL
                    about = _about(entry)
                    if about is not None:
                        total += about.st_blocks * 512
                        if stat.S_ISDIR(about.st_mode):
                            left.append(f"{path}/{entry.name}")
        except OSError:
            return keeper.FULL
        finally:
            os.close(opened)
    return total


def _about(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def empty(folder: str) -> None:
    """Remove everything below a folder, of any depth and mode; links are not followed.

    Level by level, from within: no recursion, no path that is too long, and no move from one folder to
    another, which Landlock's first version forbids. This process ends in the folder.
    """
    os.chdir(folder)
    above: list[str] = []
    left = [_folders_left()]
    while True:
        if left[-1]:
            name = left[-1].pop()
            os.chmod(name, 0o700)
            os.chdir(name)
            above.append(name)
            left.append(_folders_left())
        elif above:
            os.chdir("..")
            os.rmdir(above.pop())
            left.pop()
        else:
            return


def _folders_left() -> list[str]:
    # Those in the current folder, without its files.
    folders: list[str] = []
    for name in os.listdir("."):
        if os.path.isdir(name) and not os.path.islink(name):
            folders.append(name)
        else:
            os.unlink(name)
    return folders


def drive(calls: int, values: int) -> None:
    """Run the program that arrives, then answer calls until it is killed; no answer is a verdict."""
    _, task = wire.take(calls)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    namespace = module.__dict__
    failure = loaded(task, namespace)
    objects: list[Value] = []

    def other(value: Value) -> Value:
        objects.append(value)
        return ["handle", len(objects) - 1, wire.type_name(type(value))]

    def held(kind: str, key: Value, _: Value) -> Value:
        return objects[key] if kind == "handle" else named(key)

    def named(name: str) -> Value:
        if name in namespace:
            return namespace[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise NameError(name)

    while True:
        nonce, call = wire.take(calls)
        if failure is not None:
            wire.send(values, nonce, failure)
        else:
            answer(values, nonce, lambda call=call: called(call, named, held), other)


def loaded(task: Value, namespace: dict[str, Value]) -> dict[str, str] | None:
    """Run a program and the dataset's setup behind it; what to answer to every call if that fails."""
    kind = "syntax"
    try:
        code = compiled(task["source"], task["tolerant"])
        kind = "unloaded"
        exec(code, namespace)
        if task["setup"]:
            exec(compile(task["setup"], "setup", "exec"), namespace)
    except BaseException as error:
        return {kind: type(error).__name__, **refusal(error)}
    return None


def compiled(source: str, tolerant: bool) -> types.CodeType:
    """A program's code; where it is tolerant, a statement at the top level that fails is passed over.

    Only one that runs out of memory ends the program all the same.
    """
    tree: Value = compile(source, "program", "exec", AST_ONLY if tolerant else 0, dont_inherit=True)
    if tolerant:
        tree.body = [node if _begins(node) else _guarded(node) for node in tree.body]
        tree = compile(tree, "program", "exec", dont_inherit=True)
    return tree


def _begins(node: Value) -> bool:
    # A docstring, or an import from __future__, before which nothing else may stand.
    if isinstance(node, _ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, _ast.Expr) and isinstance(node.value, _ast.Constant)


def _guarded(node: Value) -> _ast.Try:
    where = {"lineno": node.lineno, "col_offset": 0, "end_lineno": node.lineno, "end_col_offset": 0}
    memory = _ast.Name(id="MemoryError", ctx=_ast.Load(), **where)
    handlers = [
        _ast.ExceptHandler(type=memory, name=None, body=[_ast.Raise(exc=None, cause=None, **where)], **where),
        _ast.ExceptHandler(type=None, name=None, body=[_ast.Pass(**where)], **where),
    ]
    return _ast.Try(body=[node], handlers=handlers, orelse=[], finalbody=[], **where)


def called(call: Value, named: Value, held: Value) -> Value:
    """What the program's function returns."""
    if call["name"] is None:
        return None  # the judge only wants to know whether it was loaded
    arguments = wire.decode(call["arguments"], held)
    keywords = wire.decode(call["keywords"], held)
    return named(call["name"])(*arguments, **keywords)


def answer(values: int, nonce: str, action: Value, other: Value) -> None:
    """Send what an action returns, or the name of what it raises, be it an exit."""
    encoder = wire.Encoder(other)
    try:
        message = {"value": encoder(action())}
        if encoder.flattened:
            message["flattened"] = list(encoder.flattened)
        wire.send(values, nonce, message)
    except BaseException as error:
        wire.send(values, nonce, {"raised": type(error).__name__, **refusal(error)})


def refusal(error: BaseException | None) -> dict[str, str]:
    """What the sandbox does not have, where an error is of that; for a reader."""
    causes: list[str] = []
    try:
        while error is not None and len(causes) < 9:
            causes.append(_cause(error)[:LONGEST_CAUSE])
            error = error.__cause__ or error.__context__
    except BaseException:
        return {}  # the program's own errors may do anything
    cause = next(filter(None, causes), "")
    return {"refused": cause} if cause else {}


def _place(error: Value) -> str:
    # The function that was refused something.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f" in {code.co_filename.rpartition('/')[2]}, {code.co_name}"


def _cause(error: Value) -> str:
    # By type, whose attributes are its own.
    kind = type(error)
    if kind is ModuleNotFoundError:
        return f"no module {str.__str__(error.name)!r}"
    if kind in (PermissionError, OSError) and error.errno in REFUSED:
        return f"{kind.__name__}{_place(error)}: {error}"
    if kind is FileNotFoundError and str.startswith(error.filename, "/"):
        return f"no file {error.filename!r}"
    if kind is RuntimeError and error.args == ("can't start new thread",):
        return f"more than {threads.MOST} threads at once"
    return ""
