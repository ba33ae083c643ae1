"""How much memory something takes at the most."""

import itertools
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def of_tensors(work: Callable[[], object]) -> int:
    """Bytes: the largest running sum of the allocations that torch's profiler records; it sees one thread."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate(nbytes for _, nbytes in changes))


def restart() -> None:
    """The kernel starts the process's high-water mark again; see proc(5)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> int:
    """Bytes: a line of /proc/self/status, VmRSS what is resident now, VmHWM the high-water mark."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))
