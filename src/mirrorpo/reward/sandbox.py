"""Model-written programs, run where they can neither harm nor decide their own reward.

A worker (`sandbox_judge`) is a bare interpreter with an empty environment: a judge that holds the tests, and a fork server
(`sandbox_program`) that gives every program a process of its own. Where the machine has them, the worker stands inside bubblewrap
(own mounts, network, process numbers), and each program behind Landlock and seccomp (`sandbox_lock`). What there is is found
out when the sandbox starts, by a program that tries to get out, and has a name (`Sandbox.mechanism`) for the run's manifest.
"""

import atexit
import contextlib
import functools
import json
import logging
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mirrorpo.reward import sandbox_judge, sandbox_lock, sandbox_program, sandbox_wire

Outcome = Literal["passed", "failed", "exception", "syntax_error", "time_out", "memory", "killed", "forged", "unverifiable"]
Policy = Literal["required", "unsafe"]

START_S = 60.0
GRACE_S = 15.0  # beyond a program's own time; a worker that is silent for longer is broken
FOLDER_BYTES = 32 << 20  # what a program may write in all
FILE_BYTES = 8 << 20
OPEN_FILES = 32
NOBODY = 65534
MODULES = (sandbox_lock, sandbox_wire, sandbox_program, sandbox_judge)
BOOT = """
import json, sys, types
job = json.loads(sys.stdin.buffer.readline())
for name in ("mirrorpo", "mirrorpo.reward"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in job["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    setattr(sys.modules["mirrorpo.reward"], name.rpartition(".")[2], module)
module.main(job["settings"])
"""
# A program that names the ways out that it finds open.
PROBE = """
import os, socket

def ways_out():
    found = []
    def attempt(name, action):
        try:
            action()
        except Exception:
            return
        found.append(name)
    def process():
        if os.fork() == 0:
            os._exit(0)
    attempt("network", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    attempt("network", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    attempt("processes", process)
    attempt("signals", lambda: os.kill(os.getppid(), 0))
    attempt("reading files", lambda: open("/etc/passwd").close())
    for folder in ("/", "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), os.path.dirname(os.getcwd())):
        path = os.path.join(folder, "mirrorpo-probe-%d" % os.getpid())
        attempt("writing files", lambda: (open(path, "x").close(), os.unlink(path)))
    return sorted(set(found))
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One sample: a program and its tests.

    Attributes:
        source: the program; it is model-written.
        setup: code of the dataset that runs after it, in its process.
        prelude: code of the dataset that the tests need, run where they are.
        tests: each a piece of code that raises unless the program is right.
        names: of the program, that the tests use.
    """

    source: str
    setup: str
    prelude: str
    tests: Sequence[str]
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of a job.

    Attributes:
        outcomes: one for each test, in order.
        detail: the first thing that went wrong, for a reader.
        cpu_s: seconds of processor time that the program took.
        wall_s: seconds from its start to its end.
    """

    outcomes: Sequence[Outcome]
    detail: str
    cpu_s: float
    wall_s: float


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
        parts = ["bubblewrap"] * self.bubblewrap + [f"landlock {self.landlock}"] * bool(self.landlock) + ["seccomp"] * self.seccomp
        return (" + ".join(parts) or "limits only") + (f" (UNSAFE, open: {', '.join(self.ways_out)})" if self.ways_out else "")


class Worker:
    """One judge with its fork server, inside bubblewrap or not.

    Raises:
        RuntimeError: if it does not start.
    """

    def __init__(self, bounds: Bounds, *, bubblewrap: bool, landlock: bool = True, seccomp: bool = True) -> None:
        self.bounds, self.bubblewrap = bounds, bubblewrap
        self.folder = "/program" if bubblewrap else tempfile.mkdtemp(prefix="mirrorpo-sandbox-")
        user = NOBODY if not bubblewrap and os.geteuid() == 0 and _readable_by_all(sys.base_prefix) else -1
        if user >= 0:
            os.chown(self.folder, user, user)
        command = [os.path.realpath(sys.executable), "-s", "-P", "-S", "-c", BOOT]
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [*_bubblewrap(environment), *command] if bubblewrap else command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip
        limits = {
            "RLIMIT_AS": bounds.memory_mb << 20, "RLIMIT_FSIZE": FILE_BYTES, "RLIMIT_NOFILE": OPEN_FILES,
            "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0,
        }  # fmt: skip
        settings = {
            "limits": limits, "cpu_s": bounds.cpu_s, "wall_s": bounds.wall_s, "folder": self.folder, "folder_bytes": FOLDER_BYTES,
            "readable": [*_readable(), "/dev/null", "/dev/urandom"], "user": user, "landlock": landlock, "seccomp": seccomp,
        }  # fmt: skip
        reply = self._ask({"modules": _modules(), "settings": settings}, START_S)
        if reply is None:
            self.close()
            raise RuntimeError("the sandbox's worker did not start")
        self.landlock, self.seccomp = int(reply["landlock"]), bool(reply["seccomp"])

    def run(self, job: Job) -> Finding | None:
        """What comes of a job; None when the worker is broken, and it must be closed then."""
        reply = self._ask(asdict(job), self.bounds.wall_s + GRACE_S)
        return None if reply is None else Finding(**reply)

    def mechanism(self) -> Mechanism:
        """What this worker is locked with, and whether it holds."""
        test = "for way in ways_out(): print(way)\nassert not ways_out(), ways_out()"
        finding = self.run(Job(source=PROBE, setup="", prelude="", tests=[test], names=["ways_out"]))
        if finding is None:
            raise RuntimeError("the sandbox's worker broke at its first program")
        found = {"passed": ""}.get(finding.outcomes[0], finding.detail.removeprefix("AssertionError: ").strip("[]").replace("'", ""))
        return Mechanism(bubblewrap=self.bubblewrap, landlock=self.landlock, seccomp=self.seccomp, ways_out=found.split(", ") if found else ())

    def close(self) -> None:
        """Kill everything of it, and wait."""
        with contextlib.suppress(ProcessLookupError):
            # bubblewrap takes its whole process namespace with it; without it the fork server is of the same group.
            os.killpg(self.process.pid, signal.SIGKILL)
        with self.process:
            self.process.kill()
        if not self.bubblewrap:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        line = memoryview(json.dumps(message).encode() + b"\n")
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        reply = b""
        try:
            while line:
                line = line[self.process.stdin.write(line) :]
            while not reply.endswith(b"\n"):
                if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
                    return None
                chunk = self.process.stdout.read(1 << 16)
                if not chunk:
                    return None
                reply += chunk
            return json.loads(reply)
        except (OSError, ValueError):
            return None


class Sandbox:
    r"""Workers that run jobs side by side; findings come in the order of the jobs.

    Attributes:
        mechanism: what they are locked with.

    Raises:
        ValueError: if nothing on this machine isolates programs and the policy is not "unsafe".

    Example:
        >>> sandbox = Sandbox(workers=1, bounds=Bounds(cpu_s=2, wall_s=5.0, memory_mb=256), policy="required")
        >>> tests = ["assert double(2) == 4", "assert double('') == 0"]
        >>> job = Job(source="def double(x):\n    return x * 2", setup="", prelude="", tests=tests, names=["double"])
        >>> [list(finding.outcomes) for finding in sandbox([job])]
        [['passed', 'failed']]
        >>> sandbox.close()
    """

    def __init__(self, workers: int, bounds: Bounds, policy: Policy) -> None:
        self.bounds = bounds
        self._size = workers
        # Kept: a worker's bubblewrap dies with the thread that started it, not only with the process.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        first, self.mechanism = self._threads.submit(_strongest, bounds, policy).result()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for worker in (first, *[None] * (workers - 1)):
            self._idle.put(worker)
        atexit.register(self.close)

    def __call__(self, jobs: Sequence[Job]) -> list[Finding]:
        """One finding for each job, in order."""
        return list(self._threads.map(self._run, jobs))

    def close(self) -> None:
        """End every worker, waiting for the jobs that run; the next call starts new ones."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.close()
            self._idle.put(None)

    def _run(self, job: Job) -> Finding:
        worker = self._idle.get()
        try:
            # A worker may have been broken by what ran before; a program that breaks two, a fresh one the second time, is judged by none.
            for _ in range(2):
                worker = worker or Worker(
                    self.bounds, bubblewrap=self.mechanism.bubblewrap, landlock=bool(self.mechanism.landlock), seccomp=self.mechanism.seccomp
                )
                finding = worker.run(job)
                if finding is not None:
                    return finding
                log.warning("a sandbox worker broke on a program of %d characters and was replaced", len(job.source))
                worker.close()
                worker = None
            broken: list[Outcome] = ["unverifiable"] * len(job.tests)
            return Finding(outcomes=broken, detail="the worker broke", cpu_s=0.0, wall_s=0.0)
        finally:
            self._idle.put(worker)


@functools.cache
def shared_sandbox(workers: int, bounds: Bounds, policy: Policy) -> Sandbox:
    """The process-wide sandbox of these settings, so that a reward stays a frozen value."""
    return Sandbox(workers, bounds, policy)


def _strongest(bounds: Bounds, policy: Policy) -> tuple[Worker, Mechanism]:
    tried: list[str] = []
    for bubblewrap in (True, False):
        try:
            worker = Worker(bounds, bubblewrap=bubblewrap)
            mechanism = worker.mechanism()
        except (OSError, RuntimeError) as error:
            tried.append(f"{'bubblewrap' if bubblewrap else 'no bubblewrap'}: {error}")
            continue
        if not mechanism.ways_out or (policy == "unsafe" and not bubblewrap):
            return worker, mechanism
        tried.append(str(mechanism))
        worker.close()
    raise ValueError(
        f"sandbox={policy}: nothing on this machine keeps model-written programs in ({'; '.join(tried)}). "
        "Landlock and seccomp (Linux 5.13) are enough, or bubblewrap and seccomp; sandbox=unsafe runs them all the same, with your rights"
    )


def _bubblewrap(environment: Mapping[str, str]) -> list[str]:
    found = shutil.which("bwrap")
    if found is None:
        raise RuntimeError("there is no bwrap")
    command = [found, "--unshare-all", "--die-with-parent", "--new-session", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for path in _readable():
        command += ["--ro-bind-try", path, path]
    for device in ("/dev/null", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    return [*command, "--size", str(FOLDER_BYTES), "--tmpfs", "/program", "--remount-ro", "/"]


def _readable() -> list[str]:
    # The interpreter, its library, and what its extension modules link to.
    return list(dict.fromkeys([sys.base_prefix, "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]))


def _readable_by_all(path: str) -> bool:
    return all(os.stat(part).st_mode & 0o5 == 0o5 for part in (path, *Path(path).parents))


def _modules() -> list[tuple[str, str]]:
    return [(module.__name__, Path(str(module.__file__)).read_text()) for module in MODULES]


OUTCOMES: Sequence[Outcome] = get_args(Outcome)
