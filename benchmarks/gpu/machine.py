"""The device that is measured: its clock, its memory, and where the program waits for it."""

import gc
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from mirrorpo.config import paths

# Dense bfloat16 rates without sparsity, in TFLOP/s, by what a device's name holds: the makers' data sheets.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "4090": 165.0,
}
MIB = 2**20
# What torch says of each wait in its debug mode.
SYNC = "called a synchronizing CUDA operation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A device under measurement.

    Attributes:
        device: that is measured.
    """

    device: torch.device

    @property
    def on_card(self) -> bool:
        """Whether speeds mean something."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What `model.dtype=auto` computes in here."""
        return torch.bfloat16 if self.on_card else torch.float32

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int = 3, warm: int = 1) -> float:
        """Median seconds of a piece of work, by the clock."""
        times: list[float] = []
        for _ in range(warm + rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[warm:])

    def free(self) -> None:
        """Give back what nothing refers to, and begin the peak anew."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mib(self) -> float | None:
        """The most that tensors held since `free`; None on a CPU, which does not count it."""
        return torch.cuda.max_memory_allocated(self.device) / MIB if self.on_card else None

    def peak_rate(self) -> float | None:
        """TFLOP/s in bfloat16 by the maker's data sheet; None where it is not known."""
        if not self.on_card:
            return None
        name = torch.cuda.get_device_name(self.device)
        return next((rate for part, rate in PEAKS.items() if part in name), None)

    @contextmanager
    def syncs(self) -> Iterator[Counter[str]]:
        """Counts, by line of this project, how often the program waits for the device inside the block."""
        lines: Counter[str] = Counter()
        if not self.on_card:
            yield lines
            return

        def count(message: object, *_: object, **__: object) -> None:
            if SYNC in str(message):
                lines[_nearest(sys._getframe(1))] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # Restored by `catch_warnings`.
            warnings.showwarning = count
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lines
            finally:
                torch.cuda.set_sync_debug_mode("default")


def _nearest(frame: FrameType | None) -> str:
    # The innermost line of the package, whoever it called.
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(f"{paths.PACKAGE}/"):
            return f"{file.removeprefix(f'{paths.PACKAGE}/')}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside of the package"


def listed(lines: Counter[str], most: int = 12) -> list[str]:
    """The lines that wait most, for the table."""
    return [f"{count:6d}  {line}" for line, count in lines.most_common(most)]
