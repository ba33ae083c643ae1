"""A random subset keeps its credit: what a choice of tokens or spans has to beat at equal size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import integers
from mirrorpo.weighting.random import stream_of
from mirrorpo.weighting.spans import SpanFinder


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomShare:
    """Credit for a random share of the tokens, as many as `TopEntropy` chooses, and none for the rest.

        w_t = 1 if t is among k = ceil(share n) of n trained tokens drawn without replacement, else 0

    With m stretches, stretch j of n_j trained tokens, [floor(n j / m), floor(n (j + 1) / m)) of them, has
    k n_j / n drawn up to rounding (`quotas`), k in all.

    Value: 0 or 1. Each token is drawn with probability k / n, whatever m is. Gradient: none. Nothing is
    scored. Draws are keyed as for `RandomTokens`.

    Attributes:
        share: of the trained tokens that gets credit, in (0, 1].
        stretches: m, of a completion; 1 draws from all of it.

    References:
        A random fifth of the tokens suffices: https://arxiv.org/abs/2605.07660
    """

    share: float
    stretches: int

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.stretches < 1:
            raise ValueError(f"weighting.stretches={self.stretches}: give at least 1")

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.zeros(batch.present.shape)
        for row in range(len(batch)):
            trained = batch.mask[row].nonzero().flatten()
            if len(trained):
                stream = generator(seed, "weighting", *stream_of(batch, row))
                weights[row, trained[self._drawn(len(trained), stream)]] = 1.0
        return weights

    def _drawn(self, count: int, stream: torch.Generator) -> torch.Tensor:
        edges = [count * stretch // self.stretches for stretch in range(self.stretches + 1)]
        offset = float(torch.rand((), generator=stream, dtype=torch.float64))
        chosen = [
            start + torch.randperm(end - start, generator=stream)[:quota]
            for (start, end), quota in zip(
                pairwise(edges), quotas(edges, _size(self.share, count), offset), strict=True
            )
        ]
        return torch.cat(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomShareOfSpans:
    """Credit for a random share of the spans, and none for the rest.

        w_t = 1 if t is in one of ceil(share k) of k spans drawn without replacement, else 0

    Value: 0 or 1; all ones where a completion has no span. A span is drawn with probability
    ceil(share k) / k. Gradient: none. Nothing is scored. Draws are keyed as for `RandomTokens`.

    Attributes:
        spans: which tokens are a span.
        share: of the spans that gets credit, in (0, 1].

    References:
        A random fifth of the tokens suffices: https://arxiv.org/abs/2605.07660; by span is ours
    """

    spans: SpanFinder
    share: float

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.ones(batch.present.shape)
        for row, token_offsets in enumerate(scorer.with_offsets(batch)):
            spans = self.spans(token_offsets)
            if not spans:
                continue
            stream = generator(seed, "weighting", *stream_of(batch, row))
            drawn = torch.randperm(len(spans), generator=stream)[: _size(self.share, len(spans))]
            weights[row] = 0.0
            for span in (spans[index] for index in integers(drawn)):
                weights[row, span.start : span.end] = 1.0
        return weights


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"weighting.share={share}: give the part that gets credit, above 0 and at most 1")


def _size(share: float, count: int) -> int:
    # A product such as 0.2 * 5 may come out a hair above an integer.
    return math.ceil(share * count - 1e-9)


def quotas(edges: Sequence[int], size: int, offset: float) -> list[int]:
    """How many of `size` evenly spread places stand in each stretch, in all as many.

    Place i is at (i + offset) n / size, for a last edge n. With the offset uniform in [0, 1), a stretch has
    its share of them in expectation, and always up to rounding.

    Example:
        >>> quotas([0, 2, 4, 7], 3, 0.5)
        [1, 1, 1]
    """
    before = [math.ceil(edge * size / edges[-1] - offset) for edge in edges]
    return [later - earlier for earlier, later in pairwise(before)]
