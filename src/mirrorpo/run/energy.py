"""Energy by the machine's own counters: RAPL of its processors, NVML of its GPUs. Imports no torch.

A counter is of a part of the machine, so that what other programs do there is in it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RAPL = Path("/sys/class/powercap")
# Processor packages; their cores and memory are domains below them, and part of them.
PACKAGES = "intel-rapl:[0-9]*"
MICRO, MILLI = 1e-6, 1e-3


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter that only grows, until it begins anew at zero.

    Attributes:
        read: what it says now.
        unit: joules of one.
        limit: where it begins anew; None where it never does.
    """

    read: Callable[[], int]
    unit: float
    limit: int | None = None


@dataclass(slots=True)
class EnergyMeter:
    """Joules since the last reading, of all counters together."""

    counters: Sequence[Counter]
    _last: list[int] | None = field(default=None, init=False)

    def joules(self) -> float | None:
        """Since the last call, 0 at the first; None where no counter can be read."""
        try:
            values = [counter.read() for counter in self.counters]
        except (OSError, ValueError):
            # One that is forbidden from now on: a part of the energy is no energy.
            self.counters = ()
            values = []
        if not values:
            return None
        last, self._last = self._last or values, values
        return sum(
            _grown(counter, before, now) * counter.unit
            for counter, before, now in zip(self.counters, last, values, strict=True)
        )


def _grown(counter: Counter, before: int, now: int) -> int:
    return now - before if now >= before or counter.limit is None else now - before + counter.limit


def energy_meter(*, gpus: bool, rapl: Path = RAPL) -> EnergyMeter:
    """The counters that this process may read.

    Args:
        gpus: whether those of the visible GPUs are needed; where they cannot be read there is no energy.
        rapl: where the kernel shows the processors' counters.
    """
    processors = [counter for zone in sorted(rapl.glob(PACKAGES)) if (counter := _rapl(zone)) is not None]
    if not gpus:
        return EnergyMeter(processors)
    of_gpus = _nvml()
    return EnergyMeter([*processors, *of_gpus] if of_gpus else [])


def _rapl(zone: Path) -> Counter | None:
    if zone.name.count(":") > 1:
        return None
    try:
        (zone / "energy_uj").read_text()
        limit = int((zone / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        # Most kernels let only root read it.
        return None
    return Counter(lambda: int((zone / "energy_uj").read_text()), MICRO, limit)


def _nvml() -> list[Counter]:
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else map(str, range(pynvml.nvmlDeviceGetCount()))
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.strip().isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name.strip())
            for name in names
        ]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        # Cards before Volta have no such counter.
        return []
    return [Counter(_reader(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle), MILLI) for handle in handles]


def _reader(read: Callable[[object], int], handle: object) -> Callable[[], int]:
    return lambda: read(handle)
