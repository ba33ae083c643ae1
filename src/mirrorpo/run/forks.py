"""Many alike pieces of work in forked processes, one for each core. Imports no torch."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# In a forked process, its work: what the parent has in memory is inherited, and need not be sent.
_work: Callable[[Any], Any] | None = None


def fork_map(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` returns for each item, in their order.

    On one core, for one item, and where a fork is not sound (it is on Linux alone), all is done here. The
    caller sees to it that no other thread holds a lock, and that torch has not run yet.

    Args:
        work: of anything, a closure too; what it changes stays in its process.
        items: are sent, and so are the results.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    workers = min(cores, len(items))
    if workers < 2:
        return [work(item) for item in items]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _adopt, (work,)) as pool:
        return list(pool.map(_do, items))


def _adopt(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
