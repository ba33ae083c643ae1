"""Random credit: what a weighting does beyond its spread has to beat these."""

from dataclasses import dataclass

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import integers
from mirrorpo.weighting.scale import check_range
from mirrorpo.weighting.spans import SpanFinder


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomTokens:
    """An independent uniform weight for each token.

        w_t ~ U(low, high)

    A completion's draws are keyed on the step's seed and its own tokens, so its place in the batch,
    padding and micro-batches change nothing, and nothing is drawn from the sampler's stream.

    Value: in [low, high). Gradient: none. Nothing is scored.

    Attributes:
        low: least weight, >= 0.
        high: bound above, above low.

    References:
        The random control of paper A's public code, https://arxiv.org/abs/2602.09331
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.ones(batch.present.shape)
        for row, count in enumerate(integers(batch.present.sum(dim=1))):
            weights[row, :count] = draws(batch, row, count, seed, self.low, self.high)
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSpans:
    """A uniform weight for each span, the same on all of its tokens.

        w_t = u_k ~ U(low, high) for t in span k,   (low + high) / 2 for a token of no span

    Draws are keyed as for `RandomTokens`.

    Value: in [low, high). Gradient: none. Nothing is scored.

    Attributes:
        spans: which tokens are a span.
        low: least weight, >= 0.
        high: bound above, above low.

    References:
        The random control of paper A's public code (https://arxiv.org/abs/2602.09331), by span
    """

    spans: SpanFinder
    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.full(batch.present.shape, (self.low + self.high) / 2)
        for row, token_offsets in enumerate(scorer.with_offsets(batch)):
            spans = self.spans(token_offsets)
            drawn = draws(batch, row, len(spans), seed, self.low, self.high)
            for span, weight in zip(spans, drawn, strict=True):
                weights[row, span.start : span.end] = weight
        return weights


def stream_of(batch: RolloutBatch, row: int) -> tuple[int | str, ...]:
    """What names a completion wherever it stands: the tokens of its prompt and of itself."""
    prompt = integers(batch.prompt_ids[row][batch.prompt_present[row]])
    return (*prompt, "answer", *integers(batch.completion_ids[row][batch.present[row]]))


def draws(batch: RolloutBatch, row: int, count: int, seed: int, low: float, high: float) -> torch.Tensor:
    """`count` uniform numbers that belong to the completion in `row`, wherever it stands."""
    return low + (high - low) * torch.rand(
        count, generator=generator(seed, "weighting", *stream_of(batch, row))
    )
