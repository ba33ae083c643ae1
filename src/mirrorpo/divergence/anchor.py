"""What a divergence is measured to, and how that moves with the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What a moving anchor remembers from step to step.
BEST, SINCE = "best", "since"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """The start model, or the policy of the rollout; neither moves in a way that is an anchor's own.

    Attributes:
        source: "reference" or "old".
    """

    source: Literal["reference", "old"]

    @property
    def moves(self) -> bool:
        """Whether the reference's weights do: no."""
        return False

    def after(
        self, step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> tuple[float, Mapping[str, float]]:
        """Nothing of the policy goes into it."""
        return 0.0, memory


class _Moving:
    # A reference that takes weights of the policy.
    __slots__ = ()

    @property
    def source(self) -> Literal["reference"]:
        """The reference, whose weights move."""
        return "reference"

    @property
    def moves(self) -> bool:
        """Whether the reference's weights do: yes."""
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Ema(_Moving):
    """An exponential moving average of the policy's weights, begun at the start model.

        theta_a <- decay theta_a + (1 - decay) theta   after every `every` steps

    Value: `decay: 1` is the start model for ever; 0 with `every: 1` is the policy before the step, which is
    the policy of the rollout. Under LoRA the average is of the adapter's matrices.

    Attributes:
        decay: what is kept of the anchor, in [0, 1].
        every: steps between two moves.

    References:
        EMA-PG 2026, https://arxiv.org/abs/2602.04417
    """

    decay: float
    every: int

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1 or self.every < 1:
            raise ValueError(
                f"anchor.decay={self.decay}, every={self.every}: decay is in [0, 1], every at least 1"
            )

    def after(
        self, step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> tuple[float, Mapping[str, float]]:
        """The share of the policy that goes into the anchor after a step."""
        return (1 - self.decay if step % self.every == 0 else 0.0), memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset(_Moving):
    """The start model, which becomes the policy every `every` steps, or when a measure stalls.

    A measure stalls where its best value has not risen by more than `least` for `patience` steps that
    measured it; both begin anew with a reset. The optimiser's state is kept.

    Attributes:
        every: steps between two resets; 0 is none by steps.
        measure: a metric of a step that should rise, as `reward/mean`; None watches none.
        patience: measurements without a rise, at least 1.
        least: a rise of no more than this is none.

    References:
        Liu et al. 2025 (ProRL), https://arxiv.org/abs/2505.24864, which resets the optimiser too
    """

    every: int
    measure: str | None
    patience: int
    least: float

    def __post_init__(self) -> None:
        if self.every < 0 or self.patience < 1 or not self.least >= 0:
            raise ValueError(
                f"anchor.every={self.every}, patience={self.patience}, least={self.least}: every and least "
                "are not negative, patience is at least 1"
            )
        if self.every == 0 and self.measure is None:
            raise ValueError("anchor.every=0, measure=null: nothing would reset it; anchor=reference says so")
        if self.measure is not None and self.measure.startswith("eval/"):
            raise ValueError(
                f"anchor.measure={self.measure}: the anchor moves before a step is evaluated; give a metric "
                "of the step, as reward/mean"
            )

    def after(
        self, step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> tuple[float, Mapping[str, float]]:
        """One after a step that resets it, else zero."""
        if self.every and step % self.every == 0:
            return 1.0, {}
        if self.measure is None or self.measure not in metrics:
            return 0.0, memory
        value = metrics[self.measure]
        if not memory or value > memory[BEST] + self.least:
            return 0.0, {BEST: value, SINCE: 0.0}
        since = memory[SINCE] + 1
        return (1.0, {}) if since >= self.patience else (0.0, {**memory, SINCE: since})
