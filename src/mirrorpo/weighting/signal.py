"""Importance by a single pass or none, on paper A's map: what counterfactual scoring has to beat."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import ModelNeed, Scorer
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.weighting.random import stream_of
from mirrorpo.weighting.reasoning import Range, regions
from mirrorpo.weighting.spans import SpanFinder


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """The range's largest weight on the tokens of spans, its least on other reasoning, nothing scored.

        s_t = 1 for t in a span, else 0;   w_t = range(s)_t

    Tests whether scoring the spans adds anything to finding them.

    Value: in the range's; all ones where no answer is marked or no span found. Gradient: none.

    Attributes:
        spans: which tokens.
        range: from importance to weight.
    """

    spans: SpanFinder
    range: Range

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.ones(batch.present.shape)
        for row, token_offsets in enumerate(scorer.with_offsets(batch)):
            if (bounds := regions(token_offsets)) is not None:
                importance = torch.zeros(bounds.reasoned)
                for span in self.spans(token_offsets):
                    importance[span.start : min(span.end, bounds.reasoned)] = 1.0
                weights[row, : bounds.length] = self.range(importance, bounds)
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomReasoning:
    """A uniform weight for each reasoning token, the range's fixed ones on the answer and behind it.

        w_t ~ U(low, high) of the range

    Value: in [low, high); all ones where no answer is marked. Gradient: none. Nothing is scored.

    Attributes:
        range: of the weights; its `least` is not used.

    References:
        The random control of paper A's public code, https://arxiv.org/abs/2602.09331
    """

    range: Range

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.ones(batch.present.shape)
        for row, token_offsets in enumerate(scorer.with_offsets(batch)):
            if (bounds := regions(token_offsets)) is not None:
                stream = generator(seed, "weighting", *stream_of(batch, row))
                width = self.range.high - self.range.low
                draws = torch.rand(bounds.reasoned, generator=stream)
                weights[row, : bounds.reasoned] = self.range.low + width * draws
                weights[row, bounds.reasoned : bounds.answered] = self.range.answer
                weights[row, bounds.answered : bounds.length] = self.range.rest
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Weights by the model's own gradient or attention at each reasoning token, in a single pass.

        s_t = |(dS/de_t) . e_t| (gradient), or the attention received from the answer's positions (attention)
        w_t = range(s)_t

    with S the summed log-probability of the tokens behind the first token of the answer's mark.

    Value: in the range's; all ones where no answer is marked. Gradient: none.

    Attributes:
        signal: "gradient" or "attention".
        range: from importance to weight.

    References:
        Gradient times embedding: OAR-G, https://arxiv.org/abs/2601.07408
    """

    signal: Literal["gradient", "attention"]
    range: Range

    def model_needs(self) -> Collection[ModelNeed]:
        """The signal."""
        return (self.signal,)

    def passes(self) -> Sequence[str]:
        """One, of the completions that mark an answer."""
        backward = " and its backward pass to the embeddings" if self.signal == "gradient" else ""
        return (f"a forward pass{backward} for the {self.signal}",)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.ones(batch.present.shape)
        all_regions = [regions(token_offsets) for token_offsets in scorer.with_offsets(batch)]
        answered = [(row, bounds) for row, bounds in enumerate(all_regions) if bounds is not None]
        if not answered:
            return weights
        part = batch.rows(torch.tensor([row for row, _ in answered]))
        firsts = [bounds.reasoned + 1 for _, bounds in answered]
        importance = scorer.importance(part, firsts, self.signal)
        for index, (row, bounds) in enumerate(answered):
            weights[row, : bounds.length] = self.range(importance[index], bounds)
        return weights
