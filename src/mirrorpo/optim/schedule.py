"""The learning rate over a run."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The factor on the learning rate, by update.

    Rises linearly over the first `warmup` of all updates, holds, and falls over the rest from
    `decay_from` on, to `floor`.

    Attributes:
        shape: of the fall: constant (none), linear, or cosine.
        warmup: share of the updates, in [0, 1).
        decay_from: share of the updates after which the fall begins.
        floor: factor at the end of the fall.

    Example:
        >>> schedule = Schedule(shape="linear", warmup=0.0, decay_from=0.5, floor=0.0)
        >>> [schedule.factor(update, 4) for update in range(4)]
        [1.0, 1.0, 1.0, 0.5]
    """

    shape: Literal["constant", "linear", "cosine"]
    warmup: float
    decay_from: float
    floor: float

    def __post_init__(self) -> None:
        if self.shape not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule.shape={self.shape}: choose constant, linear or cosine")
        if not (0 <= self.warmup < 1 and 0 <= self.decay_from <= 1 and 0 <= self.floor <= 1):
            raise ValueError(
                f"schedule: warmup={self.warmup}, decay_from={self.decay_from}, floor={self.floor} are "
                f"shares in [0, 1]"
            )

    def factor(self, update: int, updates: int) -> float:
        """The factor at `update`, counted from 0, of `updates`."""
        rise = min(1.0, (update + 1) / (self.warmup * updates)) if self.warmup * updates >= 1 else 1.0
        start = self.decay_from * updates
        if self.shape == "constant" or update <= start:
            return rise
        gone = (update - start) / max(updates - start, 1e-9)
        fall = 1 - gone if self.shape == "linear" else (1 + math.cos(math.pi * gone)) / 2
        return rise * (self.floor + (1 - self.floor) * fall)
