"""One worker of the sandbox: how it is started, locked and used, and what it is locked with."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mirrorpo.reward.sandbox import judge, lock, program, wire

Outcome = Literal[
    "passed", "failed", "exception", "syntax_error", "time_out", "memory", "killed", "forged", "unverifiable"
]

START_S = 60.0
GRACE_S = 15.0  # beyond a program's own time; a worker that is silent for longer is broken
FOLDER_BYTES = 32 << 20  # what a program may write in all
FILE_BYTES = 8 << 20
OPEN_FILES = 32
NOBODY = 65534
MODULES = (lock, wire, program, judge)
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
import os, socket

def ways_out():
    ways = []
    def attempt(name, action):
        try:
            action()
        except Exception:
            return
        ways.append(name)
    def process():
        if os.fork() == 0:
            os._exit(0)
    attempt("network", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    attempt("network", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    attempt("processes", process)
    attempt("signals", lambda: os.kill(os.getppid(), 0))
    attempt("reading files", lambda: open("/etc/passwd").close())
    shared = ("/", "/tmp", "/var/tmp", "/dev/shm")
    for folder in (*shared, os.path.expanduser("~"), os.path.dirname(os.getcwd())):
        path = os.path.join(folder, "mirrorpo-probe-%d" % os.getpid())
        attempt("writing files", lambda: (open(path, "x").close(), os.unlink(path)))
    return sorted(set(ways))
"""


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
    """

    outcomes: Sequence[Outcome]
    detail: str
    cpu_s: float
    wall_s: float
    lost: Sequence[str] = ()


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
        landlock: whether Landlock is used where the kernel has it.
        seccomp: whether system calls are filtered where the kernel can.

    Raises:
        RuntimeError: if it does not start.
    """

    def __init__(
        self, bounds: Bounds, *, bubblewrap: bool, landlock: bool = True, seccomp: bool = True
    ) -> None:
        self.bounds, self.bubblewrap = bounds, bubblewrap
        self._unread = b""
        self.folder = "/program" if bubblewrap else tempfile.mkdtemp(prefix="mirrorpo-sandbox-")
        user = NOBODY if not bubblewrap and os.geteuid() == 0 and _readable_by_all(sys.base_prefix) else -1
        if user >= 0:
            os.chown(self.folder, user, user)
        command = [os.path.realpath(sys.executable), "-s", "-P", "-S", "-c", BOOT]
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
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
        settings = {
            "limits": _limits(bounds),
            "cpu_s": bounds.cpu_s,
            "wall_s": bounds.wall_s,
            "folder": self.folder,
            "folder_bytes": FOLDER_BYTES,
            "readable": [*_readable(), "/dev/null", "/dev/urandom"],
            "user": user,
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
        # A task is always on its way, so that the worker need not wait for this process.
        sent = [self._write(asdict(task)) for task in tasks[:1]]
        while len(reports) < len(tasks) and sent[-1]:
            sent += [self._write(asdict(task)) for task in tasks[len(sent) : len(sent) + 1]]
            reply = self._read(self.bounds.wall_s + GRACE_S)
            if reply is None:
                break
            reports.append(ProgramReport(**reply))
        return reports

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
        if not self.bubblewrap:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            # bubblewrap takes its whole process namespace with it; without it the fork server is of the same
            # group.
            os.killpg(self.process.pid, signal.SIGKILL)

    def _start(self, settings: Mapping[str, object]) -> Mapping[str, wire.Value]:
        # What it is locked with.
        reply = self._read(START_S) if self._write({"modules": _modules(), "settings": settings}) else None
        assert self.process.stderr is not None
        if reply is None:
            self._kill()
            errors = self.process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            cause = errors[-1] if errors else "without a word"
            raise RuntimeError(f"the sandbox's worker did not start ({cause})")
        # Started, it writes nothing more there.
        self.process.stderr.close()
        return reply

    def _write(self, message: Mapping[str, object]) -> bool:
        # False when the worker is gone.
        assert self.process.stdin is not None
        line = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while line:
                line = line[self.process.stdin.write(line) :]
        except OSError:
            return False
        return True

    def _read(self, timeout_s: float) -> Mapping[str, wire.Value] | None:
        # The next line; None when the worker is gone or silent for too long.
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready = poller.poll(max(deadline - time.monotonic(), 0) * 1000)
            chunk = self.process.stdout.read(1 << 16) if ready else None
            if not chunk:
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


def _bubblewrap(environment: Mapping[str, str]) -> list[str]:
    program_path = shutil.which("bwrap")
    if program_path is None:
        raise RuntimeError("there is no bwrap")
    command = [program_path, "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for path in _readable():
        command += ["--ro-bind-try", path, path]
    for device in ("/dev/null", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    return [*command, "--size", str(FOLDER_BYTES), "--tmpfs", "/program", "--remount-ro", "/"]


def _readable() -> list[str]:
    # The interpreter, its library, and what its extension modules link to.
    libraries = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
    return list(dict.fromkeys((sys.base_prefix, *libraries)))


def _limits(bounds: Bounds) -> dict[str, int]:
    return {
        "RLIMIT_AS": bounds.memory_mb << 20,
        "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }


def _readable_by_all(path: str) -> bool:
    return all(os.stat(part).st_mode & 0o5 == 0o5 for part in (path, *Path(path).parents))


def _modules() -> list[tuple[str, str]]:
    return [(module.__name__, Path(str(module.__file__)).read_text()) for module in MODULES]
