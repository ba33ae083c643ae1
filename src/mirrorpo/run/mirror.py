"""A tracker that may hang or fail without holding up its run. Imports no torch."""

import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from mirrorpo.config.values import Config

log = logging.getLogger(__name__)

# Of a tracker that names none itself.
LIMIT_S = 30.0

# Set when a call was left behind that may never return.
_hung = threading.Event()


class Target(Protocol):
    """What is mirrored to; `core.protocols.Tracker` without its torch."""

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class Mirror:
    """Calls a tracker in a thread of its own, in order; the run waits for none of them longer than a limit.

    `log` does not wait at all. A tracker that is slow gets its rows when it can; one that raises gets no
    further call. Either is said once, with how the rest can be sent.

    Args:
        tracker: what is called.
        limit_s: how long `start` and `finish` wait, and a row may wait before that is said.
        catch_up: how what is missing can be sent later.
    """

    def __init__(self, tracker: Target, *, limit_s: float, catch_up: Callable[[], str] | None = None) -> None:
        self._tracker, self._limit_s, self._catch_up = tracker, limit_s, catch_up
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._pending: list[tuple[float, threading.Event]] = []
        self._thread: threading.Thread | None = None
        self.problem: str | None = None

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None:
        """Open the tracker."""
        self._wait(
            self._call(lambda: self._tracker.start(run_id=run_id, name=name, config=config, folder=folder))
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror one step."""
        row = dict(metrics)
        self._call(lambda: self._tracker.log(step, row))
        self._pending = [(since, done) for since, done in self._pending if not done.is_set()]
        if self._pending and time.monotonic() - self._pending[0][0] > self._limit_s:
            self._behind("takes no rows")

    def finish(self, exit_code: int) -> None:
        """Close the tracker, after the rows before."""
        if not self._wait(self._call(lambda: self._tracker.finish(exit_code))):
            # Its threads, and what it has the interpreter call at exit, may wait for ever.
            _hung.set()

    def _call(self, call: Callable[[], None]) -> threading.Event:
        done = threading.Event()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
            self._thread.start()
        self._pending.append((time.monotonic(), done))
        self._calls.put((call, done))
        return done

    def _wait(self, done: threading.Event) -> bool:
        if done.wait(self._limit_s):
            return True
        self._behind("does not answer")
        return False

    def _work(self) -> None:
        broken = False
        while True:
            call, done = self._calls.get()
            try:
                if not broken:
                    call()
            except Exception as error:
                broken = True
                self._say(f"the tracker stopped ({type(error).__name__}: {error})")
            finally:
                done.set()

    def _behind(self, how: str) -> None:
        self._say(f"the tracker is behind: it {how} within {self._limit_s:g} s")

    def _say(self, problem: str) -> None:
        if self.problem is None:
            rest = f"; later, {self._catch_up()} sends the rest" if self._catch_up else ""
            self.problem = f"{problem}{rest}"
            log.warning("%s; the run goes on, metrics.jsonl has every number", self.problem)


@contextmanager
def leaving_hung_calls() -> Iterator[None]:
    """End the process behind the block, with its status, where a tracker's call hangs; do nothing else.

    The interpreter's own end would wait for the tracker.
    """
    status: object = 0
    try:
        yield
    except SystemExit as exited:
        if not _hung.is_set():
            raise
        status = exited.code
    except BaseException:
        if not _hung.is_set():
            raise
        traceback.print_exc()
        status = 1
    if _hung.is_set():
        if isinstance(status, str):
            print(status, file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
