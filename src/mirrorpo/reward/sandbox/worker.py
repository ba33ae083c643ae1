"""One worker of the sandbox: how it is started, locked and used, and what it is locked with."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mirrorpo.reward.sandbox import judge, keeper, lock, program, threads, wire
from mirrorpo.reward.sandbox.folder import Folder

Outcome = Literal[
    "passed", "failed", "exception", "syntax_error", "time_out", "memory", "killed", "forged", "unverifiable"
]
# A worker's end: by its processor time, by a signal or an exit, or by the clock, from outside.
Breakage = Literal["spun out", "ended", "silent"]

START_S = 60.0
GRACE_S = 2.0  # beyond a program's time; a worker that is silent for longer is killed
SPUN_OUT = (-signal.SIGXCPU, 128 + signal.SIGXCPU)  # exit codes: without bubblewrap, and behind it
FOLDER_BYTES = 32 << 20  # what a program may write in all
OPEN_FILES = 32
NOBODY = 65534
NEWEST_LANDLOCK = 99  # the kernel's
MODULES = (lock, wire, keeper, threads, program, judge)
BOOT = """
import json, sys, types
request = json.loads(sys.stdin.buffer.readline())
for name in ("mirrorpo", "mirrorpo.reward", "mirrorpo.reward.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in request["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    setattr(sys.modules["mirrorpo.reward.sandbox"], name.rpartition(".")[2], module)
module.main(request["settings"])
"""
# A program that names the ways out that it finds open.
PROBE = """
import os, socket, time

def ways_out():
    ways = []
    def attempt(name, action):
        try:
            action()
        except Exception:
            return
        ways.append(name)
    def allowed(name, action):
        # A call that finds no such file is one that is not refused.
        try:
            action("/mirrorpo-probe/none")
        except FileNotFoundError:
            ways.append(name)
        except Exception:
            pass
    def process():
        if os.fork() == 0:
            os._exit(0)
    def trace():
        # To attach to process 0 finds none, or is refused.
        import ctypes, errno
        ctypes.CDLL(None, use_errno=True).ptrace(16, 0, 0, 0)
        assert ctypes.get_errno() == errno.ESRCH
    def limits():
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    def threads():
        import _thread
        _thread.stack_size(1 << 16)
        wait = _thread.allocate_lock()
        wait.acquire()
        for _ in range(MOST_THREADS + 1):
            _thread.start_new_thread(wait.acquire, ())
    attempt("network", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    attempt("network", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    attempt("processes", process)
    allowed("processes", lambda path: os.execv(path, [path]))
    attempt("tracing", trace)
    attempt("changing limits", limits)
    allowed("changing files", lambda path: os.truncate(path, 0))
    allowed("changing files", lambda path: os.chmod(path, 0))
    allowed("changing files", lambda path: os.chown(path, -1, -1))
    allowed("changing files", lambda path: os.utime(path))
    attempt("signals", lambda: os.kill(os.getppid(), 0))
    attempt("reading files", lambda: open("/etc/passwd").close())
    shared = ("/", "/tmp", "/var/tmp", "/dev/shm")
    for folder in (*shared, os.path.expanduser("~"), os.path.dirname(os.getcwd())):
        path = os.path.join(folder, "mirrorpo-probe-%d" % os.getpid())
        attempt("writing files", lambda: (open(path, "x").close(), os.unlink(path)))
    attempt("threads", threads)
    # Whoever cannot look at this program's files ends it now.
    time.sleep(0.05)
    return sorted(set(ways))
""".replace("MOST_THREADS", str(threads.MOST))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramTask:
    """One sample: a program and its tests.

    Attributes:
        source: the program; it is model-written.
        setup: code of the dataset that runs after it, in its process.
        prelude: code of the dataset that the tests need, run where they are.
        tests: each a piece of code that raises unless the program is right.
        names: of the program, that the tests use.
        tolerant: whether a statement at the program's top level that fails is passed over.
    """

    source: str
    setup: str
    prelude: str
    tests: Sequence[str]
    names: Sequence[str]
    tolerant: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramReport:
    """What came of a task.

    Attributes:
        outcomes: one for each test, in order.
        detail: the first thing that went wrong, for a reader.
        cpu_s: seconds of processor time that the program took.
        wall_s: seconds from its start to its end.
        lost: what did not cross as it was between program and tests.
        refused: what the sandbox does not have, where the program failed for that; by its own word.
        broken: whether it broke the worker that judged it; the outcomes say how.
    """

    outcomes: Sequence[Outcome]
    detail: str
    cpu_s: float
    wall_s: float
    lost: Sequence[str] = ()
    refused: str = ""
    broken: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Limits of one program.

    Attributes:
        cpu_s: seconds of processor time, whole.
        wall_s: seconds by the clock.
        memory_mb: of address space.
    """

    cpu_s: int
    wall_s: float
    memory_mb: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """What a worker is locked with.

    Attributes:
        bubblewrap: the worker has its own mounts, network and process numbers.
        landlock: version of the kernel's Landlock that is used; 0 without.
        seccomp: system calls are filtered.
        ways_out: what a program that tried to get out could do.
    """

    bubblewrap: bool
    landlock: int
    seccomp: bool
    ways_out: Sequence[str]

    def __str__(self) -> str:
        parts = (
            ["bubblewrap"] * self.bubblewrap
            + [f"landlock {self.landlock}"] * bool(self.landlock)
            + ["seccomp"] * self.seccomp
        )
        return (" + ".join(parts) or "limits only") + (
            f" (UNSAFE, open: {', '.join(self.ways_out)})" if self.ways_out else ""
        )


class Worker:
    """One judge with its fork server, inside bubblewrap or not.

    Args:
        bounds: limits of each program.
        bubblewrap: whether it gets mounts, network and process numbers to itself.
        landlock: the newest version of Landlock's ABI that is used where the kernel has it; 0 for none.
        seccomp: whether system calls are filtered where the kernel can.

    Raises:
        RuntimeError: if it does not start.
    """

    def __init__(
        self, bounds: Bounds, *, bubblewrap: bool, landlock: int = NEWEST_LANDLOCK, seccomp: bool = True
    ) -> None:
        self.bounds, self.bubblewrap = bounds, bubblewrap
        self._unread, self._unsent = b"", memoryview(b"")
        self._silent = False
        user = NOBODY if not bubblewrap and os.geteuid() == 0 and _readable_by_all(sys.base_prefix) else -1
        self._made = None if bubblewrap else Folder(user)
        self.folder = self._made.path if self._made else "/program"
        command = [os.path.realpath(sys.executable), "-s", "-P", "-S", "-c", BOOT]
        # Without the last each thread would take 64 MB of a program's address space.
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
        self.process = subprocess.Popen(
            [*_bubblewrap(environment), *command] if bubblewrap else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        readable, listable = _without(_readable(), _hidden())
        settings = {
            "limits": _limits(bounds),
            "cpu_s": bounds.cpu_s,
            "wall_s": bounds.wall_s,
            "folder": self.folder,
            "folder_bytes": FOLDER_BYTES,
            "readable": [*readable, "/dev/null", "/dev/urandom"],
            "listable": listable,
            "user": user,
            "watched": not bubblewrap,
            "landlock": landlock,
            "seccomp": seccomp,
        }
        reply = self._start(settings)
        self.landlock, self.seccomp = int(reply["landlock"]), bool(reply["seccomp"])

    def run(self, task: ProgramTask) -> ProgramReport | None:
        """What comes of a task; None when the worker is broken, and it must be closed then."""
        return next(iter(self.run_all([task])), None)

    def run_all(self, tasks: Sequence[ProgramTask]) -> list[ProgramReport]:
        """The reports of tasks that run one after another.

        Returns:
            Fewer than there are tasks when the worker broke on the next, and it must be closed then.
        """
        reports: list[ProgramReport] = []
        # What comes late from a worker that was silent would be read as the answer to another task.
        if self._silent:
            return reports
        # A task is always on its way, so that the worker need not wait for this process.
        for task in tasks[:1]:
            self._send(asdict(task))
        for following in (*tasks[1:], None)[: len(tasks)]:
            if following is not None:
                self._send(asdict(following))
            reply = self._read(self.bounds.wall_s + GRACE_S)
            if reply is None:
                break
            reports.append(ProgramReport(**reply))
        return reports

    def breakage(self) -> Breakage:
        """How this worker broke on the task that it did not answer."""
        if self._silent:
            return "silent"
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.wait(timeout=1) in SPUN_OUT:
                return "spun out"
        return "ended"

    def mechanism(self) -> Mechanism:
        """What this worker is locked with, and whether it holds."""
        test = "for way in ways_out(): print(way)\nassert not ways_out(), ways_out()"
        report = self.run(ProgramTask(source=PROBE, setup="", prelude="", tests=[test], names=["ways_out"]))
        if report is None:
            raise RuntimeError("the sandbox's worker broke at its first program")
        failure = report.detail.removeprefix("AssertionError: ").strip("[]").replace("'", "")
        ways = "" if report.outcomes[0] == "passed" else failure
        return Mechanism(
            bubblewrap=self.bubblewrap,
            landlock=self.landlock,
            seccomp=self.seccomp,
            ways_out=ways.split(", ") if ways else (),
        )

    def close(self) -> None:
        """Kill everything of it, and wait."""
        self._kill()
        with self.process:
            self.process.kill()
        if self._made is not None:
            self._made.remove()
            self._made = None

    def _kill(self) -> None:
        # The first process, bubblewrap's or the keeper, ends when its children have, and has waited for them.
        # The keeper behind bubblewrap takes its whole process namespace with it.
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            children = []
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        if children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=GRACE_S)
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _start(self, settings: Mapping[str, object]) -> Mapping[str, wire.Value]:
        # What it is locked with.
        assert self.process.stdin is not None and self.process.stderr is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self._send({"modules": _modules(), "settings": settings})
        reply = self._read(START_S)
        if reply is None:
            self._kill()
            errors = self.process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            cause = errors[-1] if errors else "without a word"
            raise RuntimeError(f"the sandbox's worker did not start ({cause})")
        # Started, it writes nothing more there.
        self.process.stderr.close()
        return reply

    def _send(self, message: Mapping[str, object]) -> None:
        # It is written while `_read` waits, which has a deadline; a worker may be busy and read nothing.
        self._unsent = memoryview(bytes(self._unsent) + json.dumps(message).encode() + b"\n")

    def _read(self, timeout_s: float) -> Mapping[str, wire.Value] | None:
        # The next line; None when the worker is gone or silent for too long.
        assert self.process.stdout is not None and self.process.stdin is not None
        replies, requests = self.process.stdout.fileno(), self.process.stdin.fileno()
        poller = select.poll()
        poller.register(replies, select.POLLIN)
        if self._unsent:
            poller.register(requests, select.POLLOUT)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready = dict(poller.poll(max(deadline - time.monotonic(), 0) * 1000))
            if requests in ready and not self._write(requests):
                poller.unregister(requests)
            if replies in ready:
                chunk = os.read(replies, 1 << 16)
                if not chunk:
                    return None
                self._unread += chunk
            elif time.monotonic() >= deadline:
                self._silent = True
                return None
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _write(self, pipe: int) -> bool:
        # Whether something is left to be written; a worker that is gone takes nothing more.
        try:
            self._unsent = self._unsent[os.write(pipe, self._unsent) :]
        except BlockingIOError:
            return True
        except OSError:
            self._unsent = memoryview(b"")
        return bool(self._unsent)


def _bubblewrap(environment: Mapping[str, str]) -> list[str]:
    program_path = shutil.which("bwrap")
    if program_path is None:
        raise RuntimeError("there is no bwrap")
    command = [program_path, "--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session"]
    command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for path in _readable():
        command += ["--ro-bind-try", path, path]
    for device in ("/dev/null", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    for path in _aliases(_hidden(), _readable()):
        command += ["--size", "4096", "--perms", "0000", "--tmpfs", path, "--remount-ro", path]
    return [*command, "--size", str(FOLDER_BYTES), "--tmpfs", "/program", "--remount-ro", "/"]


def _readable() -> list[str]:
    # The interpreter, its library, and what its extension modules link to.
    libraries = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
    return list(dict.fromkeys((sys.base_prefix, *libraries)))


def _hidden() -> list[str]:
    # Packages that were installed beside the standard library: programs are the same on every machine.
    patterns = (
        "lib*/python3*/*-packages",
        "local/lib*/python3*/*-packages",
        "lib*/python3*/ensurepip/_bundled",
        "share/python-wheels",
        "share/python3",
    )
    roots = {os.path.realpath(path) for path in (sys.base_prefix, "/usr", "/")}
    paths = {os.path.realpath(path) for root in roots for name in patterns for path in Path(root).glob(name)}
    return sorted(path for path in paths if os.path.isdir(path))


def _without(paths: Sequence[str], hidden: Sequence[str]) -> tuple[list[str], list[str]]:
    # What is in these paths and in none of the hidden ones, in as few paths as can be; and the folders that
    # hold both.
    out: dict[str, None] = {}
    mixed: dict[str, None] = {}
    left = [os.path.realpath(path) for path in paths]
    while left:
        path = left.pop()
        if path in hidden:
            continue
        if any(below.startswith(f"{path.rstrip('/')}/") for below in hidden):
            mixed[path] = None
            # A link's target is in these paths itself, or it is not to be read.
            left += [entry.path for entry in os.scandir(path) if not entry.is_symlink()]
        else:
            out[path] = None
    return sorted(out), sorted(mixed)


def _aliases(hidden: Sequence[str], bound: Sequence[str]) -> list[str]:
    # Where hidden folders appear in what is bound, which may be a link.
    real = {path: os.path.realpath(path) for path in bound}
    return [
        path + below[len(target) :]
        for path, target in real.items()
        for below in hidden
        if below.startswith(f"{target.rstrip('/')}/")
    ]


def _limits(bounds: Bounds) -> dict[str, int]:
    return {
        "RLIMIT_AS": bounds.memory_mb << 20,
        "RLIMIT_FSIZE": keeper.FILE_BYTES,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }


def _readable_by_all(path: str) -> bool:
    return all(os.stat(part).st_mode & 0o5 == 0o5 for part in (path, *Path(path).parents))


def _modules() -> list[tuple[str, str]]:
    return [(module.__name__, Path(str(module.__file__)).read_text()) for module in MODULES]
