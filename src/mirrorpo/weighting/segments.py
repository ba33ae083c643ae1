"""Where a completion is cut into segments: at spans, evenly, where the policy was least sure, or at drops."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Assembly, Inert, ModelNeed, Scorer
from mirrorpo.core.tensors import integers
from mirrorpo.weighting.counterfactual import Counterfactual
from mirrorpo.weighting.spans import SpanFinder


@runtime_checkable
class Segmenter(Protocol):
    """Cuts of each completion, at most `most`: ascending, each the first token of a segment but the first.

    The same for the same tokens and policy, wherever a completion stands.
    """

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BehindSpans:
    """A cut behind each span: a segment is a span with what leads to it, and the last what follows all.

    Of more spans than cuts are allowed, evenly spread ones.

    Attributes:
        spans: which tokens are a span.
    """

    spans: SpanFinder

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> Sequence[Sequence[int]]:
        return [
            _spread([end for end in ends if end < length], most)
            for ends, length in _ends(self.spans, batch, scorer)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualLengths:
    """Segments of equal length, up to a token; fewer where a completion has fewer tokens.

    Of more cuts than are allowed, evenly spread ones.

    Attributes:
        segments: of a completion, >= 2.
    """

    segments: int

    def __post_init__(self) -> None:
        if self.segments < 2:
            raise ValueError(f"weighting.segments.segments={self.segments}: give at least 2")

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> Sequence[Sequence[int]]:
        return [
            _spread(
                sorted({length * index // self.segments for index in range(1, self.segments)} - {0}), most
            )
            for length in integers(batch.present.sum(dim=1))
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AtForks:
    """A cut before each of the tokens where the old policy's entropy is largest, the first token aside.

    Of more forks than cuts are allowed, evenly spread ones.

    Attributes:
        forks: tokens of a completion, >= 1; the earlier of two equally uncertain ones comes first.

    References:
        Where high entropy marks a choice: Wang et al. 2025, https://arxiv.org/abs/2506.01939
    """

    forks: int

    def __post_init__(self) -> None:
        if self.forks < 1:
            raise ValueError(f"weighting.segments.forks={self.forks}: give at least 1")

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> Sequence[Sequence[int]]:
        entropies = scorer.entropies(batch)
        lengths = integers(batch.present.sum(dim=1))
        return [
            _spread(sorted(1 + place for place in integers(order[: self.forks])), most)
            for order in (
                entropies[row, 1:length].argsort(descending=True, stable=True)
                for row, length in enumerate(lengths)
            )
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AroundDrops:
    """Cuts at the edges of the segments whose span matters most to what follows, by counterfactual drop.

        drop of the cut behind span k = max(d_k, d_(k+1)),   d_k = S(y) - S(y without span k)

    Segments are those of `BehindSpans`, and the cuts of the largest drops are kept: the cut behind the most
    important span, the one before its segment, then those of the next span. At an equal drop the cut behind
    the more important span comes first, then the earlier one. A span that the prior does not score has the
    least drop; a completion without any drop has evenly spread cuts. Where all cuts are allowed nothing is
    scored.

    Attributes:
        prior: whose drops, and whose spans. Of its settings those of the drop act: spans, target, region,
            masking and score.
    """

    prior: Counterfactual

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.prior), Counterfactual):
            raise ValueError(
                f"weighting.segments.prior={type(self.prior).__name__} hides no spans and so has no drops; "
                "use counterfactual or counterfactual_downstream"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The prior's."""
        return self.prior.requirements(f"{group}.prior", assembly)

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What makes weights of drops."""
        unread = ("completions", "negative", "order", "range", "scope", "spread")
        yield Inert(
            tuple(f"{group}.prior.{name}" for name in unread),
            "AroundDrops reads the prior's drops, and none of its weights",
            "the prior as weighting",
        )

    def model_needs(self) -> Collection[ModelNeed]:
        """The prior's."""
        return self.prior.model_needs()

    def passes(self) -> Sequence[str]:
        """The prior's, of some completions."""
        return [f"{line}, if it has more spans than are cut" for line in self.prior.passes()]

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> Sequence[Sequence[int]]:
        all_cuts = [
            [end for end in ends if end < length] for ends, length in _ends(self.prior.spans, batch, scorer)
        ]
        scored = [row for row, cuts in enumerate(all_cuts) if len(cuts) > most]
        if not scored:
            return all_cuts
        _, spans = self.prior.explain(batch.rows(torch.tensor(scored)), scorer, 0)
        drops: dict[int, dict[int, float]] = {row: {} for row in scored}
        for span in spans:
            drops[scored[span.row]][span.span.end] = span.drop
        return [
            _largest(cuts, drops[row], most) if row in drops else cuts for row, cuts in enumerate(all_cuts)
        ]


def _ends(spans: SpanFinder, batch: RolloutBatch, scorer: Scorer) -> list[tuple[list[int], int]]:
    # The ends of each completion's spans, and how many tokens it has.
    return [
        ([span.end for span in spans(token_offsets)], len(token_offsets.offsets))
        for token_offsets in scorer.with_offsets(batch)
    ]


def _largest(cuts: Sequence[int], drops: Mapping[int, float], most: int) -> Sequence[int]:
    # The cuts with the largest drop on either side; `drops` are of the spans that end at cuts.
    if not drops:
        return _spread(cuts, most)
    of_spans = [drops.get(cut, -math.inf) for cut in cuts]
    behind = [*of_spans[1:], -math.inf]
    ranked = sorted(
        range(len(cuts)),
        key=lambda index: (
            -max(of_spans[index], behind[index]),
            of_spans[index] < behind[index],
            cuts[index],
        ),
    )
    return sorted(cuts[index] for index in ranked[:most])


def _spread(cuts: Sequence[int], most: int) -> Sequence[int]:
    if len(cuts) <= most:
        return cuts
    return [cuts[(2 * index + 1) * len(cuts) // (2 * most)] for index in range(most)]
