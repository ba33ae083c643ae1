"""Processes of cells as a launcher has them, forked from one that has imported what every run needs."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from mirrorpo.launch.fork_server import OPTION, PID, Request

PR_SET_CHILD_SUBREAPER = 36

SUPPORTED = sys.platform == "linux"


class Child:
    """A child of this process that `subprocess` has not started, with what a launcher needs of its `Popen`.

    Attributes:
        pid: its process id.
        returncode: its exit status once it was waited for; -N: signal N ended it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        # It keeps its process id until `waitpid`, so that no signal can reach another process.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)


class ForkedCell(Child):
    """A cell's process.

    Attributes:
        stderr: what it prints there.
    """

    def __init__(self, pid: int, stderr: TextIO) -> None:
        super().__init__(pid)
        self.stderr = stderr

    def __enter__(self) -> "ForkedCell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stderr.close()
        if self.returncode is None:
            self.wait()


class ForkServer:
    """Starts cells by forking one process, whose imports they share; its end ends no cell.

    Args:
        channel: to the process, which serves the other end.
        process: a child of this one.
    """

    def __init__(self, channel: socket.socket, process: "subprocess.Popen[bytes] | Child") -> None:
        self._channel, self._process, self._lock = channel, process, threading.Lock()

    @classmethod
    def begun(cls, command: Sequence[str], room: int) -> "ForkServer":
        """A new one.

        Args:
            command: Python's arguments that start a launch.
            room: bytes that the longest arguments of a cell take, so that `ps` can show them.
        """
        channel, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as printed:
            option = f"{OPTION}{theirs.fileno()}".ljust(room)
            process = subprocess.Popen(
                [sys.executable, *command, option],
                pass_fds=[theirs.fileno()],
                stdout=printed,
                stderr=printed,
            )
        return cls(channel, process)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], stdout: int
    ) -> ForkedCell | None:
        """Start a cell whose stderr is read here.

        Args:
            arguments: of train.py.
            environment: of the cell, all of it.
            stdout: the descriptor that it prints to.

        Returns:
            Its process, or None if this server cannot start one: it has ended, or found a fork to be unsafe.
        """
        read, write = os.pipe()
        try:
            pid = self.fork(Request(arguments, environment), stdout, write)
        finally:
            os.close(write)
        if pid is None:
            os.close(read)
            return None
        return ForkedCell(pid, open(read))

    def fork(self, request: Request, stdout: int, stderr: int) -> int | None:
        """The process id of a new cell, which is a child of this process; None if none can be started."""
        file = request.written()
        try:
            with self._lock, _adopting() as can:
                if not can:
                    return None
                socket.send_fds(self._channel, [b"\0"], [stdout, stderr, file])
                answer = self._channel.recv(PID.size)
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            os.close(file)
        return PID.unpack(answer)[0] if answer else None

    def abandon(self) -> None:
        """End it if it is not ready yet; who waits for a cell gets none."""
        self._process.terminate()

    def close(self) -> None:
        """End it; cells that run go on."""
        self._channel.close()
        self._process.wait()


@contextmanager
def _adopting() -> Iterator[bool]:
    """Whose parent ends meanwhile becomes this process's child: a cell, of which another process forks it."""
    prctl = ctypes.CDLL(None).prctl
    try:
        yield prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
