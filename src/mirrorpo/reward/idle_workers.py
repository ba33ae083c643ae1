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
class Place(Generic[Worker]):
    """Room for a worker; without one, whoever holds the place may start one and leave it there."""

    worker: Worker | None

    def close(self) -> None:
        """End the worker, if there is one."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None


class IdleWorkers(Generic[Worker]):
    """So many places, handed out to one thread each; every worker is closed at exit.

    Example:
        >>> class Process:
        ...     def close(self) -> None:
        ...         print("closed")
        >>> workers: IdleWorkers[Process] = IdleWorkers([None])
        >>> with workers.place() as place:
        ...     place.worker = place.worker or Process()
        >>> workers.close()
        closed
    """

    def __init__(self, workers: Iterable[Worker | None]) -> None:
        self._idle: queue.SimpleQueue[Place[Worker]] = queue.SimpleQueue()
        for worker in workers:
            self._idle.put(Place(worker))
        self._size = self._idle.qsize()
        atexit.register(self.close)

    @contextmanager
    def place(self) -> Iterator[Place[Worker]]:
        """The next idle place, waiting for one; idle again when the block ends."""
        place = self._idle.get()
        try:
            yield place
        finally:
            self._idle.put(place)

    def close(self) -> None:
        """End every worker, waiting for those in use; whoever takes a place then may start a new one."""
        for _ in range(self._size):
            place = self._idle.get()
            place.close()
            self._idle.put(place)
