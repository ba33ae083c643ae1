"""Processes of cells as a launcher has them, forked from one that has imported what every run needs."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TextIO

from mirrorpo.launch.fork_server import OPTION, PID, Request
from mirrorpo.launch.program import program

PR_SET_CHILD_SUBREAPER = 36

SUPPORTED = sys.platform == "linux"


class ForkedCell:
    """A cell's process, a child of this one, with as much of `subprocess.Popen` as a launcher needs.

    Attributes:
        stderr: what it prints there.
        returncode: its exit status once it was waited for; -N: signal N ended it.
    """

    def __init__(self, pid: int, stderr: TextIO) -> None:
        self.stderr = stderr
        self.returncode: int | None = None
        self._pid, self._lock = pid, threading.Lock()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        # It keeps its process id until `waitpid`, so that no signal can reach another process.
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        with self._lock:
            if self.returncode is None:
                os.kill(self._pid, signal.SIGTERM)

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
        arguments: of every cell that may be started, so that there is room to show them.
    """

    def __init__(self, arguments: Sequence[Sequence[str]]) -> None:
        self._lock = threading.Lock()
        room = max(len(os.fsencode(" ".join(words))) for words in arguments)
        self._channel, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as printed:
            option = f"{OPTION}{theirs.fileno()}".ljust(room)
            command = [sys.executable, *program(), option]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=printed, stderr=printed
            )

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], stdout: int
    ) -> ForkedCell | None:
        """Start a cell.

        Args:
            arguments: of train.py.
            environment: of the cell, all of it.
            stdout: the descriptor that it prints to.

        Returns:
            Its process, or None if this server cannot start one: it has ended, or found a fork to be unsafe.
        """
        read, write = os.pipe()
        request = Request(arguments, environment).written()
        try:
            with self._lock:
                pid = self._pid_of([stdout, write, request])
        finally:
            os.close(write)
            os.close(request)
        if pid is None:
            os.close(read)
            return None
        return ForkedCell(pid, open(read))

    def _pid_of(self, files: Sequence[int]) -> int | None:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        # The process between the server and a cell ends at once, and the cell is then this one's child.
        if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            return None
        try:
            socket.send_fds(self._channel, [b"\0"], files)
            answer = self._channel.recv(PID.size)
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        return PID.unpack(answer)[0] if answer else None

    def abandon(self) -> None:
        """End it if it is not ready yet; who waits for a cell gets none."""
        self._process.terminate()

    def close(self) -> None:
        """End it; cells that run go on."""
        self._channel.close()
        self._process.wait()
