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
from contextlib import contextmanager
from types import FrameType

from mirrorpo.config.values import JsonObject
from mirrorpo.launch.launcher import CellLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.launch.program import program


class LocalLauncher(CellLauncher):
    """A process a cell, `jobs` at a time.

    One at a time shows its own progress; several write to `log.txt` in their folders instead.

    Attributes:
        jobs: cells that run at once.
        gpus: devices to deal out, one to each of the cells that run at once; empty: each sees all.
    """

    def __init__(self, *, jobs: int, gpus: Sequence[int], only: Sequence[str] | None, dry_run: bool) -> None:
        super().__init__(only=only, dry_run=dry_run)
        if jobs < 1 or (gpus and len(gpus) < jobs):
            raise SystemExit(
                f"error: hydra.launcher.jobs={jobs}, hydra.launcher.gpus={list(gpus)}: run at least one cell "
                f"at a time, on a device each"
            )
        self.jobs, self.gpus = jobs, list(gpus)
        self.devices_a_cell = int(bool(gpus))
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = threading.Event()

    def run(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Run the cells; a signal that ends the launcher ends them at their next step."""
        slots: queue.Queue[int | None] = queue.Queue()
        for slot in range(self.jobs):
            slots.put(self.gpus[slot] if self.gpus else None)
        with self._stoppable(), ThreadPoolExecutor(self.jobs) as pool:
            futures = [
                pool.submit(self._one, place, planned, len(left), slots) for place, planned in enumerate(left)
            ]
            try:
                reasons = [future.result() for future in futures]
            except KeyboardInterrupt:
                # The terminal has interrupted the cells too; the same command goes on with them later.
                self._stopped.set()
                raise SystemExit(130) from None
        if self._stopped.is_set():
            raise SystemExit(128 + signal.SIGTERM)
        return {place: reason for place, reason in enumerate(reasons) if reason}

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def stop(signum: int, frame: FrameType | None) -> None:
            self._stopped.set()
            for process in list(self._running):
                process.terminate()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _one(
        self, place: int, planned: PlannedCell, count: int, slots: "queue.Queue[int | None]"
    ) -> str | None:
        if self._stopped.is_set():
            return "not started"
        device = slots.get()
        try:
            title = f"[{place + 1}/{count}] {planned.folder.path}"
            self.say(title if self.jobs == 1 else f"{title}: started")
            started = time.time()
            reason = self._run(planned, device)
            if self.jobs > 1:
                self.say(f"{title}: {'failed' if reason else 'done'} after {time.time() - started:.0f} s")
            return reason
        finally:
            slots.put(device)

    def _run(self, planned: PlannedCell, device: int | None) -> str | None:
        started, folder = time.time(), planned.folder
        command = [sys.executable, *program(), *self.arguments_of(planned)]
        environment = os.environ if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": str(device)}
        message = ""
        with (folder.path / "log.txt").open("a") if self.jobs > 1 else open(os.devnull, "w") as log:
            out = log if self.jobs > 1 else None
            with subprocess.Popen(
                command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment
            ) as process:
                self._running.add(process)
                for line in process.stderr or ():
                    (log if self.jobs > 1 else sys.stderr).write(line)
                    message = line.strip() if line.startswith("error: ") else message
                process.wait()
                self._running.discard(process)
        if process.returncode == 0:
            return None
        manifest: JsonObject = folder.manifest()
        written = (
            manifest.get("error")
            if manifest.get("ended") and folder.manifest_path.stat().st_mtime >= started
            else None
        )
        if written:
            return f"{written} (traceback: {folder.path / 'error.txt'})"
        if process.returncode in (os.EX_TEMPFAIL, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            return (
                "it was asked to stop and has a checkpoint of where it was; the same command goes on. "
                f"Its folder is {folder.path}"
            )
        how = (
            f"killed by signal {-process.returncode}"
            if process.returncode < 0
            else f"exit status {process.returncode}"
        )
        return f"{message or how}; its folder is {folder.path}"
