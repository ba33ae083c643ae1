"""Cells of a multirun on this machine, each in a process of its own, some at a time."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from mirrorpo.config.values import JsonObject
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.forked import SUPPORTED, ForkedCell, ForkServer
from mirrorpo.launch.launcher import LEFT_ALONE, CellLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.launch.program import program
from mirrorpo.launch.sweep_lock import claimed
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder

# Until a cell that was interrupted a second time is ended from outside.
SECONDS_TO_END = 5.0


class LocalLauncher(CellLauncher):
    """A process a cell, `jobs` at a time.

    One at a time shows its own progress; several write to `log.txt` in their folders instead.

    Attributes:
        jobs: cells that run at once.
        gpus: devices to deal out, one to each of the cells that run at once; empty: each sees all.
        preload: whether several cells are forked from a process that has imported what each needs.
    """

    def __init__(
        self,
        *,
        jobs: int,
        gpus: Sequence[int],
        preload: bool,
        only: Sequence[str] | str | None,
        dry_run: bool,
        fitness: str | None,
    ) -> None:
        super().__init__(only=only, dry_run=dry_run, fitness=fitness)
        if jobs < 1 or (gpus and len(gpus) < jobs):
            raise LaunchError(
                f"hydra.launcher.jobs={jobs}, hydra.launcher.gpus={list(gpus)}: run at least one cell "
                f"at a time, on a device each"
            )
        self.jobs, self.gpus, self.preload = jobs, list(gpus), preload
        self.devices_a_cell = int(bool(gpus))
        self._running: set[subprocess.Popen[str] | ForkedCell] = set()
        self._server: ForkServer | None = None
        self._stopped = threading.Event()
        self._signum: signal.Signals | None = None

    def run(self, left: Sequence[PlannedCell], elsewhere: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Run the cells; a signal that ends the launcher ends them at their next step."""
        slots: queue.Queue[int | None] = queue.Queue()
        for slot in range(self.jobs):
            slots.put(self.gpus[slot] if self.gpus else None)
        with self._stoppable(), self._preloaded(left), ThreadPoolExecutor(self.jobs) as pool:
            futures = [
                pool.submit(self._one, place, planned, len(left), slots) for place, planned in enumerate(left)
            ]
            reasons = [future.result() for future in futures]
        if self._signum is not None:
            left_over = sum(reason is not None for reason in reasons)
            self.say(f"\n{left_over} of {len(left)} cells are not done; the same command goes on with them")
            raise SystemExit(128 + self._signum)
        return {place: reason for place, reason in enumerate(reasons) if reason}

    @contextmanager
    def _preloaded(self, left: Sequence[PlannedCell]) -> Iterator[None]:
        """Several cells share their imports."""
        if not self.preload or not SUPPORTED or len(left) < 2:
            yield
            return
        room = max(len(os.fsencode(" ".join(self.arguments_of(planned)))) for planned in left)
        self._server = ForkServer.begun(program(), room)
        try:
            yield
        finally:
            self._server.close()
            self._server = None

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the cells at their next step, and a second one at once."""
        before = {signum: signal.signal(signum, self._stop) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._signum is not None:
            # The terminal has sent it to the cells too, which end at once unless they hang.
            os.write(sys.stderr.fileno(), b"\nstopping at once\n")
            threading.Timer(SECONDS_TO_END, self._terminate).start()
            return
        if signum == signal.SIGINT:
            os.write(sys.stderr.fileno(), b"\nstopping when each cell has ended its step\n")
        self._signum = self._signum or signal.Signals(signum)
        self._stopped.set()
        if self._server is not None:
            self._server.abandon()
        # A cell that the terminal has interrupted takes this for the same request.
        self._terminate()

    def _terminate(self) -> None:
        for process in list(self._running):
            process.terminate()

    def _one(
        self, place: int, planned: PlannedCell, count: int, slots: "queue.Queue[int | None]"
    ) -> str | None:
        if self._stopped.is_set():
            return "not started"
        device = slots.get()
        try:
            title = f"[{place + 1}/{count}] {planned.folder.path}"
            with claimed(planned.folder.path) as free:
                if skip := _meanwhile(planned, free):
                    self.say(f"{title}: {skip}")
                    return None
                return self._timed(title, planned, device)
        except (OSError, RunError) as error:
            # Such as a full disk, which keeps its log from being written; the other cells go on.
            return str(error)
        finally:
            slots.put(device)

    def _timed(self, title: str, planned: PlannedCell, device: int | None) -> str | None:
        self.say(title if self.jobs == 1 else f"{title}: started")
        started = time.monotonic()
        reason = self._run(planned, device)
        if self.jobs > 1:
            self.say(f"{title}: {'failed' if reason else 'done'} after {time.monotonic() - started:.0f} s")
        return reason

    def _run(self, planned: PlannedCell, device: int | None) -> str | None:
        folder = planned.folder
        before = len(folder.manifest().get("launches", []))
        message = ""
        with (folder.path / "log.txt").open("a") if self.jobs > 1 else open(os.devnull, "w") as log:
            process = self._started(planned, device, log if self.jobs > 1 else None)
            if process is None:
                return "not started"
            with process:
                self._running.add(process)
                if self._stopped.is_set():
                    process.terminate()
                for line in process.stderr or ():
                    with suppress(OSError):
                        (log if self.jobs > 1 else sys.stderr).write(line)
                    message = line.strip() if line.startswith("error: ") else message
                status = process.wait()
                self._running.discard(process)
        if status == 0:
            return None
        if folder.held():
            self.say(f"{folder.path}: another process runs it, {LEFT_ALONE}")
            return None
        return _reason(folder, before, status, message)

    def _started(
        self, planned: PlannedCell, device: int | None, out: TextIO | None
    ) -> subprocess.Popen[str] | ForkedCell | None:
        """The process of a cell; None if there is none because the launcher was asked to stop."""
        arguments = self.arguments_of(planned)
        environment = (
            dict(os.environ) if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": str(device)}
        )
        if self._server is not None:
            cell = self._server.start(arguments, environment, 1 if out is None else out.fileno())
            if cell is not None or self._stopped.is_set():
                return cell
        command = [sys.executable, *program(), *arguments]
        return subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment)


def _reason(folder: RunFolder, before: int, status: int, message: str) -> str:
    """Why a cell's process ended as it did.

    Args:
        folder: of the run.
        before: launches that its manifest had before this one.
        status: of the process.
        message: its last line of error.
    """
    manifest: JsonObject = folder.manifest()
    # Of this launch, by their number: the file server's clock may be another one.
    entered = len(manifest.get("launches", [])) > before
    written = manifest.get("error") if entered and manifest.get("ended") else None
    if written:
        return f"{written} (traceback: {folder.path / 'error.txt'})"
    if status in (os.EX_TEMPFAIL, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        return (
            "it was asked to stop and has a checkpoint of where it was; the same command goes on. "
            f"Its folder is {folder.path}"
        )
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{message or how}; its folder is {folder.path}"


def _meanwhile(planned: PlannedCell, free: bool) -> str | None:
    """What another launcher did with a cell since this one asked; `free`: whether none has it."""
    if planned.folder.finished():
        return f"{planned.folder.manifest()['state']} meanwhile, nothing to do"
    return f"another process runs it, {LEFT_ALONE}" if not free or planned.folder.held() else None
