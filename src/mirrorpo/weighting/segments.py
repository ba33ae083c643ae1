"""Where a completion is cut into segments: at spans, evenly, or where the policy was least sure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.tensors import integers
from mirrorpo.weighting.spans import SpanFinder


@runtime_checkable
class Segmenter(Protocol):
    """Cuts of each completion: ascending, each the first token of a segment that is not the first.

    The same for the same tokens and policy, wherever a completion stands.
    """

    def __call__(self, batch: RolloutBatch, scorer: Scorer) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BehindSpans:
    """A cut behind each span: a segment is a span with what leads to it, and the last what follows all.

    Attributes:
        spans: which tokens are a span.
    """

    spans: SpanFinder

    def __call__(self, batch: RolloutBatch, scorer: Scorer) -> Sequence[Sequence[int]]:
        return [
            [span.end for span in self.spans(token_offsets) if span.end < len(token_offsets.offsets)]
            for token_offsets in scorer.with_offsets(batch)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualLengths:
    """Segments of equal length, up to a token; fewer where a completion has fewer tokens.

    Attributes:
        segments: of a completion, >= 2.
    """

    segments: int

    def __post_init__(self) -> None:
        if self.segments < 2:
            raise ValueError(f"weighting.segments.segments={self.segments}: give at least 2")

    def __call__(self, batch: RolloutBatch, scorer: Scorer) -> Sequence[Sequence[int]]:
        return [
            sorted({length * index // self.segments for index in range(1, self.segments)} - {0})
            for length in integers(batch.present.sum(dim=1))
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AtForks:
    """A cut before each of the tokens where the old policy's entropy is largest, the first token aside.

    Attributes:
        forks: tokens of a completion, >= 1; the earlier of two equally uncertain ones comes first.

    References:
        Where high entropy marks a choice: Wang et al. 2025, https://arxiv.org/abs/2506.01939
    """

    forks: int

    def __post_init__(self) -> None:
        if self.forks < 1:
            raise ValueError(f"weighting.segments.forks={self.forks}: give at least 1")

    def __call__(self, batch: RolloutBatch, scorer: Scorer) -> Sequence[Sequence[int]]:
        entropies = scorer.entropies(batch)
        lengths = integers(batch.present.sum(dim=1))
        return [
            sorted(1 + place for place in integers(order[: self.forks]))
            for order in (
                entropies[row, 1:length].argsort(descending=True, stable=True)
                for row, length in enumerate(lengths)
            )
        ]
