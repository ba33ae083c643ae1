"""Writes that go on while the run does: one at a time, in a thread of their own. Imports no torch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of the threads.
NAME = "checkpoint"


def under_way() -> bool:
    """Whether a write goes on: an interpreter that ends beside one is aborted by torch."""
    return any(thread.name == NAME for thread in threading.enumerate())


class Background:
    """One piece of work at a time in a thread; what it raises is raised where it is next looked at.

    The thread ends with the process if nobody waits for it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, once the work before is done.

        Raises:
            BaseException: what the work before raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name=NAME, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the work is done.

        Raises:
            BaseException: what it raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def check(self) -> None:
        """Raise what work raised that is done; one that goes on is left alone."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Behind the block nothing is under way; not so behind a Ctrl-C that ends the process at once.

        Raises:
            BaseException: what the work raised; but an error of the block stands over it.
        """
        try:
            yield
        except Exception:
            if self._thread is not None:
                self._thread.join()
            raise
        self.wait()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
