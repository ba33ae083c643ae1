"""What a divergence is measured to, and how that moves with the run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mirrorpo.core.protocols import Anchor, AnchorPart, Assembly, DeclaresInert, Inert

# What a moving anchor remembers from step to step.
BEST, SINCE, RESETS = "best", "since", "resets"
# Before the names of what a checkpoint holds of a mixture's second reference.
SECOND = "second/"

T = TypeVar("T")


class _Alone:
    # An anchor of one part.
    __slots__ = ()

    @property
    def parts(self: T) -> Sequence[T]:
        """Itself."""
        return (self,)

    @property
    def share(self) -> float:
        """There is no second part."""
        return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(_Alone):
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


class _Moving(_Alone):
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

        theta_a <- decay theta_a + (1 - decay) theta   after a step that is a multiple of every

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
    measured it; both begin anew with a reset. The optimiser's state is kept. `anchor/resets` counts resets.

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

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What a measure is watched by, where there is none."""
        if self.measure is None:
            yield Inert(
                (f"{group}.patience", f"{group}.least"),
                f"with {group}.measure=null no metric is watched",
                f"a metric in {group}.measure",
            )

    def after(
        self, step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> tuple[float, Mapping[str, float]]:
        """One after a step that resets it, else zero."""
        # A version that did not count began a run without a count, and such a run has none.
        count = {RESETS: 0.0} if step == 1 else {key: memory[key] for key in (RESETS,) if key in memory}
        reset = 1.0, {key: value + 1 for key, value in count.items()}
        if self.every and step % self.every == 0:
            return reset
        value = math.nan if self.measure is None else metrics.get(self.measure, math.nan)
        if math.isnan(value):
            return 0.0, {**memory, **count}
        if BEST not in memory or value > memory[BEST] + self.least:
            return 0.0, {**count, BEST: value, SINCE: 0.0}
        since = memory[SINCE] + 1
        return reset if since >= self.patience else (0.0, {**memory, SINCE: since})


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Two anchors at once: at each position the mixture of their distributions.

        q = (1 - share) q_1 + share q_2

    Probabilities are mixed, not logits and not weights: over the vocabulary where the divergence reads it, at
    the drawn token where it reads that one, log((1 - share) q_1(y) + share q_2(y)). The divergence is taken
    to q, which is not the mean of two divergences: a token that one part gives little is held by the other.

    Value: `share` 0 is the first anchor, 1 the second, to the bit; the other part is then not there.

    Attributes:
        first: any of the anchors; "reference" and "old" may be given by name.
        second: another one.
        share: of the second, in [0, 1].

    References:
        Ours
    """

    first: AnchorPart | str
    second: AnchorPart | str
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"anchor.share={self.share}: the second anchor's share is in [0, 1]")
        first, second = _part("first", self.first), _part("second", self.second)
        if first == second:
            raise ValueError(
                f"anchor.first and anchor.second are both {first}: nothing is mixed; choose another, as by "
                "anchor@anchor.second=ema"
            )

    @property
    def parts(self) -> Sequence[AnchorPart]:
        """Both, or the one that has all of the share."""
        first, second = _part("first", self.first), _part("second", self.second)
        return (first, second) if 0 < self.share < 1 else (second if self.share else first,)

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """A part without a share; and what the parts say of themselves."""
        if self.share in (0, 1):
            without = "first" if self.share else "second"
            yield Inert(
                (f"{group}.{without}",),
                f"with {group}.share={self.share:g} {group}.{without} has no share",
                f"{group}.share between 0 and 1",
            )
        for name, part in (("first", self.first), ("second", self.second)):
            if isinstance(part, DeclaresInert):
                yield from part.inert(f"{group}.{name}", assembly)


def moving_parts(anchor: Anchor) -> Mapping[int, AnchorPart]:
    """The parts whose weights move, by their number among the references."""
    references = [part for part in anchor.parts if part.source == "reference"]
    return {number: part for number, part in enumerate(references) if part.moves}


def after(
    moving: Mapping[int, AnchorPart], step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
) -> tuple[Mapping[int, float], Mapping[str, float]]:
    """The share of the policy that goes into each moving part after a step, and what all remember."""
    shares, remembered = dict[int, float](), dict[str, float]()
    for number, part in moving.items():
        shares[number], kept = part.after(step, of_part(memory, number), metrics)
        remembered |= {name_of(key, number): value for key, value in kept.items()}
    return shares, remembered


def begun(memory: Mapping[str, float]) -> bool:
    """Whether a part has measured, or was reset, before."""
    return BEST in memory or memory.get(RESETS, 0.0) > 0


def resets(memory: Mapping[str, float]) -> dict[str, float]:
    """How often an anchor was reset so far, as metrics; empty where nothing counts.

    Example:
        >>> resets({"resets": 2.0, "best": 0.5, "second/resets": 0.0})
        {'anchor/resets': 2.0, 'anchor/second/resets': 0.0}
    """
    return {f"anchor/{name}": value for name, value in memory.items() if name.removeprefix(SECOND) == RESETS}


def name_of(name: str, number: int) -> str:
    """What a checkpoint calls something of the first or the second reference."""
    return f"{SECOND}{name}" if number else name


def of_part(everything: Mapping[str, T], number: int) -> dict[str, T]:
    """What a checkpoint holds of the first or the second reference, by its names there."""
    return {
        name.removeprefix(SECOND): value
        for name, value in everything.items()
        if name.startswith(SECOND) == bool(number)
    }


def _part(name: str, value: object) -> AnchorPart:
    if value == "reference":
        return Fixed(source="reference")
    if value == "old":
        return Fixed(source="old")
    if not isinstance(value, AnchorPart):
        given = value if isinstance(value, str) else type(value).__name__
        raise ValueError(
            f"anchor.{name}={given}: a part is one of reference, old, ema, reset; choose its file by "
            f"anchor@anchor.{name}=ema"
        )
    return value
