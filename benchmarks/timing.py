"""Clocks of the benchmarks."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """How long something took: by the clock, and of all processors together."""

    wall: float
    processor: float


@contextmanager
def timed(into: list[Seconds]) -> Iterator[None]:
    """Append what the block takes."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    into.append(Seconds(wall=time.perf_counter() - wall, processor=time.process_time() - processor))


def typical(times: list[Seconds]) -> Seconds:
    """The median of each."""
    return Seconds(
        wall=statistics.median(each.wall for each in times),
        processor=statistics.median(each.processor for each in times),
    )
