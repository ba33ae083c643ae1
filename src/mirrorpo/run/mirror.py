"""A tracker that may hang or fail without holding up its run. Imports no torch."""

import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from mirrorpo.config.values import Config
from mirrorpo.run import background

log = logging.getLogger(__name__)

# Of a tracker that names none itself, and what the interpreter's own end may take.
LIMIT_S = 30.0

# Set while a tracker is open: what it started may keep the interpreter from ending.
_unclosed = threading.Event()
# Set once a tracker was called.
_used = threading.Event()


class Behind(Exception):
    """Raised by a tracker that goes on taking rows, and that somebody has to send later."""


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
        self._broken = self._closed = False
        self.problem: str | None = None

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None:
        """Open the tracker."""
        done = self._call(lambda: self._tracker.start(run_id=run_id, name=name, config=config, folder=folder))
        if not done.wait(self._limit_s):
            self._behind("does not answer", self._limit_s)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror one step."""
        row = dict(metrics)
        self._call(lambda: self._tracker.log(step, row))
        self._pending = [(since, done) for since, done in self._pending if not done.is_set()]
        if self._pending and time.monotonic() - self._pending[0][0] > self._limit_s:
            self._behind("takes no rows", self._limit_s)

    def finish(self, exit_code: int, within_s: float | None = None) -> None:
        """Close the tracker, after the rows before; a second call does nothing.

        Args:
            exit_code: of the run.
            within_s: how long to wait, where that is less than the limit.
        """
        if self._closed:
            return
        self._closed = True
        limit_s = self._limit_s if within_s is None else min(within_s, self._limit_s)
        if not self._call(lambda: self._tracker.finish(exit_code)).wait(limit_s):
            self._behind("does not answer", limit_s)
        elif not self._broken:
            _unclosed.clear()

    def _call(self, call: Callable[[], None]) -> threading.Event:
        done = threading.Event()
        if self._thread is None:
            _unclosed.set()
            _used.set()
            self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
            self._thread.start()
        self._pending.append((time.monotonic(), done))
        self._calls.put((call, done))
        return done

    def _work(self) -> None:
        while True:
            call, done = self._calls.get()
            try:
                if not self._broken:
                    call()
            except Behind as error:
                self._say(f"the tracker is behind: {error}")
            except (Exception, SystemExit) as error:
                self._broken = True
                self._say(f"the tracker stopped ({type(error).__name__}: {error})")
            finally:
                done.set()

    def _behind(self, how: str, within_s: float) -> None:
        self._say(f"the tracker is behind: it {how} within {within_s:g} s")

    def _say(self, problem: str) -> None:
        if self.problem is None:
            rest = f"; later, {self._catch_up()} sends the rest" if self._catch_up else ""
            self.problem = f"{problem}{rest}"
            log.warning("%s; the run goes on, metrics.jsonl has every number", self.problem)


@contextmanager
def bounded_exit(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Let no tracker keep the process from ending behind the block, with the status that it would have.

    The interpreter waits for threads and exit hooks, and those of a client whose server is away may wait for
    ever. So behind a tracker that was not closed in good order it ends at once, behind any other within
    the limit. A block in which no tracker was called ends as ever, but at once beside a checkpoint that is
    still being written.
    """
    ended: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ended = error
    status = _status(ended)
    if _unclosed.is_set() or background.under_way():
        _report(ended)
        _leave(status)
    if _used.is_set():
        threading.Thread(target=_leave, args=(status, limit_s), name="end", daemon=True).start()
    if ended is not None:
        raise ended


def _status(ended: BaseException | None) -> int:
    """What the interpreter would exit with."""
    if ended is None:
        return 0
    if not isinstance(ended, SystemExit):
        return 1
    return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _report(ended: BaseException | None) -> None:
    """Print what the interpreter would."""
    if isinstance(ended, SystemExit):
        if ended.code is not None and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    elif ended is not None:
        traceback.print_exception(ended)


def _leave(status: int, after_s: float = 0.0) -> None:
    time.sleep(after_s)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
