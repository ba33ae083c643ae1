"""Any weighting's weights on other tokens: a control with the very same weights and without their places."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import (
    Assembly,
    DeclaresModelNeeds,
    ModelNeed,
    Scorer,
    StatesNotes,
    StatesPasses,
    StatesRequirements,
    Weighting,
)
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.span import ScoredSpan, Span
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.weighting.random import stream_of
from mirrorpo.weighting.spans import SpanFinder
from mirrorpo.weighting.unscored import span_weighting


@dataclass(frozen=True, kw_only=True, slots=True)
class Permuted:
    """The weights of another weighting, permuted among each completion's trained tokens.

        w'_t = w_pi(t)

    with pi a uniform permutation of the trained tokens of each block: the completion, or each of its spans
    and, as one more, the tokens of no span. Draws are keyed on the step's seed and the completion's tokens,
    apart from those of the weighting.

    Value: in each block the multiset of the weighting's, so a block of equal weights stays as it is.
    Gradient: none. What is scored, and costs, is the weighting's.

    Attributes:
        weighting: whose weights.
        within: which tokens are a span; None permutes over the completion.
    """

    weighting: Weighting
    within: SpanFinder | None

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.weighting), Weighting):
            raise ValueError(
                f"weighting.weighting={type(self.weighting).__name__} gives no weights that could be "
                "permuted; choose a weighting that does"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The weighting's."""
        if isinstance(self.weighting, StatesRequirements):
            yield from self.weighting.requirements(f"{group}.weighting", assembly)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The weighting's."""
        if isinstance(self.weighting, StatesNotes):
            yield from self.weighting.notes(f"{group}.weighting", assembly)

    def model_needs(self) -> Collection[ModelNeed]:
        """The weighting's."""
        return self.weighting.model_needs() if isinstance(self.weighting, DeclaresModelNeeds) else ()

    def passes(self) -> Sequence[str]:
        """The weighting's."""
        return self.weighting.passes() if isinstance(self.weighting, StatesPasses) else ()

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        return self._dealt(span_weighting(self.weighting)(batch, scorer, seed), batch, scorer, seed)

    def covers(self, batch: RolloutBatch) -> Bool[Tensor, " B"]:
        """Those that the weighting covers."""
        return span_weighting(self.weighting).covers(batch)

    def explain(
        self, batch: RolloutBatch, scorer: Scorer, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """The permuted weights, and the spans that the weighting scored."""
        weights, spans = span_weighting(self.weighting).explain(batch, scorer, seed)
        return self._dealt(weights, batch, scorer, seed), spans

    def _dealt(self, weights: PerToken, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        out = weights.clone()
        all_offsets = [None] * len(batch) if self.within is None else scorer.with_offsets(batch)
        for row, token_offsets in enumerate(all_offsets):
            stream = generator(seed, "weighting", "permuted", *stream_of(batch, row))
            for tokens in self._blocks(batch.mask[row], token_offsets):
                order = torch.randperm(len(tokens), generator=stream)
                out[row, tokens] = weights[row, tokens[order]]
        return out

    def _blocks(self, mask: Bool[Tensor, " T"], token_offsets: TokenOffsets | None) -> list[Tensor]:
        # The trained tokens of each span, and those of none.
        spans: Sequence[Span] = ()
        if self.within is not None and token_offsets is not None:
            spans = self.within(token_offsets)
        rest, blocks = mask.clone(), [torch.zeros_like(mask) for _ in spans]
        for block, span in zip(blocks, spans, strict=True):
            block[span.start : span.end] = mask[span.start : span.end]
            rest[span.start : span.end] = False
        return [block.nonzero().flatten() for block in (*blocks, rest)]
