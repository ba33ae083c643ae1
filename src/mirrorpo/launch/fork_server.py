"""The process that a local multirun's cells are forked from: it has imported what every run needs.

`train.py --cells-of=FD` is started by `launch.forked`, imports, and then waits for requests. Each makes a
process that goes on as `train.py ARGUMENTS` does, its own in every way that a fork allows: environment,
standard streams, signals, command line, and the launcher for a parent.

What could be unsafe about a fork is looked at before and behind it. This process runs no thread and never
initialises CUDA; it makes no tensor, so that no pool of threads is started and no generator drawn from. Where
this is not so, or where a file that was imported has changed since, the cell imports for itself.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType

from mirrorpo.launch.imports import without_collection
from mirrorpo.launch.program import program

OPTION = "--cells-of="

# What Python does on SIGINT.
Interrupt = Callable[[int, FrameType | None], object] | int | None

# The process id of a cell, as it is sent.
PID = struct.Struct("i")

# With a request come the cell's stdout and stderr, and a file that has the request.
STREAMS = 3

NEEDED = (
    "mirrorpo.train.build",
    "mirrorpo.train.extension",
    "mirrorpo.train.sharded",
    "mirrorpo.train.trainer",
    "mirrorpo.train.loaded",
    "transformers.generation",
    "transformers.tokenization_python",
)

_TASKS = Path("/proc/self/task")
_ARG_START, _ARG_END = 45, 46


@dataclass(frozen=True, slots=True)
class Request:
    """A cell to be started.

    Attributes:
        arguments: of train.py.
        environment: of the cell, all of it.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]

    def written(self) -> int:
        """A file without a name that holds it; its descriptor is the caller's to close."""
        file = os.memfd_create("request")
        with open(os.dup(file), "w") as text:
            json.dump([self.arguments, dict(self.environment)], text)
        return file

    @classmethod
    def read(cls, file: int) -> "Request":
        """The request in a file, which is closed."""
        with open(file) as text:
            text.seek(0)
            return cls(*json.load(text))


def channel_in(arguments: Sequence[str]) -> socket.socket | None:
    """Where requests come from, if this process is told to serve them."""
    option = next((argument for argument in arguments if argument.startswith(OPTION)), None)
    return None if option is None else socket.socket(fileno=int(option.removeprefix(OPTION)))


def import_needed() -> None:
    """Import what every run needs."""
    with without_collection():
        for name in NEEDED:
            import_module(name)


def serve(channel: socket.socket) -> list[str]:
    """Start cells until the launcher is gone.

    Returns:
        In each cell's process, its arguments. The server's own process ends here.
    """
    # A job in a shell's background has it ignored, and its cells too.
    interrupt = signal.getsignal(signal.SIGINT)
    # Ended without a word while it imports; later it goes with its launcher.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    import_needed()
    imported = _imported()
    if not _forks_safely():
        os._exit(os.EX_UNAVAILABLE)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1, STREAMS)
        if not message:
            os._exit(os.EX_OK)
        pid = _forked()
        if pid is None:
            channel.close()
            return _become(files, imported, interrupt)
        for file in files:
            os.close(file)
        with suppress(BrokenPipeError):
            channel.send(PID.pack(pid))


def _forks_safely() -> bool:
    """Whether this process has but one thread, and CUDA is not initialised.

    OpenBLAS, which starts a pool when numpy is imported, stops it ahead of every fork; so this looks behind
    one.
    """
    import torch

    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return len(list(_TASKS.iterdir())) == 1 and not torch.cuda.is_initialized()


def _forked() -> int | None:
    """A process whose parent will be the launcher; None in it, its id here."""
    read, write = os.pipe()
    # One that comes too early for the cell waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    if (between := os.fork()) == 0:
        try:
            pid = os.fork()
            if pid:
                os.write(write, PID.pack(pid))
        except OSError:
            os._exit(os.EX_OSERR)
        if pid:
            os._exit(os.EX_OK)
        os.close(read)
        os.close(write)
        return None
    os.close(write)
    os.waitpid(between, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    with open(read, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        # No process can be made; the launcher tries for itself and says why it cannot.
        os._exit(os.EX_OSERR)
    return PID.unpack(answer)[0]


def _become(files: Sequence[int], imported: Mapping[str, object], interrupt: Interrupt) -> list[str]:
    """Take on in this process what the request says."""
    import torch

    from mirrorpo.core.seeds import seed_anew

    stdout, stderr, request_file = files
    request = Request.read(request_file)
    arguments = list(request.arguments)
    printed = os.pread(2, os.fstat(2).st_size, 0)
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    if torch.cuda._is_in_bad_fork() or imported != _imported(imported):
        os.execv(sys.executable, [sys.executable, *program(), *arguments])
    os.write(2, printed)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # pyright: ignore[reportAttributeAccessIssue]
    seed_anew()
    with suppress(OSError):
        _show(arguments)
    return arguments


def _imported(names: Mapping[str, object] | None = None) -> dict[str, object]:
    """What marks each imported file's content: when it was written, its size, and which file it is."""
    if names is None:
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        names = dict.fromkeys(file for file in files if file)
    out: dict[str, object] = {}
    for name in names:
        try:
            status = os.stat(name)
        except OSError:
            continue
        out[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return out


def _show(arguments: Sequence[str]) -> None:
    """Have `ps` and `mirrorpo status` see the command line of a cell, as far as the server's has room."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    words = [sys.executable, *program(), *arguments]
    text = b"\0".join(map(os.fsencode, words))[: end - start - 1]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(text.ljust(end - start, b"\0"))
