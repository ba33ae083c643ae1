"""Worker processes that wait to be used, each by one thread at a time."""

import atexit
import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """A worker that can be ended."""

    def close(self) -> None: ...


Worker = TypeVar("Worker", bound=Closes)


@dataclass(slots=True)
class Slot(Generic[Worker]):
    """Room for a worker; without one, whoever holds the slot may start one and leave it there."""

    worker: Worker | None

    def close(self) -> None:
        """End the worker, if there is one."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None


class IdleWorkers(Generic[Worker]):
    """So many slots, handed out to one thread each; every worker is closed at exit.

    Example:
        >>> class Process:
        ...     def close(self) -> None:
        ...         print("closed")
        >>> workers: IdleWorkers[Process] = IdleWorkers([None])
        >>> with workers.slot() as slot:
        ...     slot.worker = slot.worker or Process()
        >>> workers.close()
        closed
    """

    def __init__(self, workers: Iterable[Worker | None]) -> None:
        self._idle: queue.SimpleQueue[Slot[Worker]] = queue.SimpleQueue()
        for worker in workers:
            self._idle.put(Slot(worker))
        self._size = self._idle.qsize()
        atexit.register(self.close)

    @contextmanager
    def slot(self) -> Iterator[Slot[Worker]]:
        """The next idle slot, waiting for one; idle again when the block ends."""
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)

    def close(self) -> None:
        """End every worker, waiting for those in use; whoever takes a slot then may start a new one."""
        for _ in range(self._size):
            slot = self._idle.get()
            slot.close()
            self._idle.put(slot)
