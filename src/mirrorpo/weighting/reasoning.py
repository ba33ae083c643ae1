"""Where a completion reasons and where it answers, and paper A's map from importance to weight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.weighting.scale import between
from mirrorpo.weighting.spans import answer_span


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The tokens of one completion: reasoning [0, reasoned), the marked answer up to `answered`, the rest.

    Attributes:
        reasoned: where the answer's mark begins.
        answered: one past the answer region.
        length: tokens of the completion, the end-of-sequence token included.
    """

    reasoned: int
    answered: int
    length: int


def regions(token_offsets: TokenOffsets) -> Regions | None:
    """The regions of a completion; None when it marks no answer, or when no token stands behind the mark."""
    answer, length = answer_span(token_offsets), len(token_offsets.offsets)
    if answer is None or answer.start + 1 >= length:
        return None
    return Regions(reasoned=answer.start, answered=answer.end, length=length)


def entire_completion(token_offsets: TokenOffsets) -> Regions | None:
    """All text of a completion as reasoning, for what marks no answer; None when there is no text."""
    if not token_offsets.text:
        return None
    reasoned = token_offsets.tokens(0, len(token_offsets.text))[1]
    return Regions(reasoned=reasoned, answered=reasoned, length=len(token_offsets.offsets))


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Paper A's map from importance to weight.

        scaled_t = least + (1 - least) (s_t - min s) / (max s - min s)      over the reasoning tokens
        w_t      = low + (high - low) scaled_t

    with `answer` on the answer region and `rest` behind it. A completion whose importances are all equal
    has weights of one: nothing is known of it.

    Attributes:
        low: weight of importance zero, >= 0.
        high: weight of the most important token, above low.
        least: scaled importance of the least important token, in [0, 1).
        answer: weight of the answer region.
        rest: weight of what follows it, the end-of-sequence token mostly.

    References:
        The public code of paper A, https://arxiv.org/abs/2602.09331: 0.5, 2.0, 0.5, 1.5, 1.0
    """

    low: float
    high: float
    least: float
    answer: float
    rest: float

    def __post_init__(self) -> None:
        fixed = (self.answer, self.rest)
        if not (
            0 <= self.low < self.high < math.inf
            and 0 <= self.least < 1
            and all(0 <= weight < math.inf for weight in fixed)
        ):
            raise ValueError(
                f"weighting.range: low={self.low}, high={self.high}, least={self.least}, "
                f"answer={self.answer}, rest={self.rest}: "
                "weights are finite and not negative, low is below high, least is a share below 1"
            )

    def __call__(self, importance: Sequence[float] | Tensor, bounds: Regions) -> Float[Tensor, " length"]:
        """Weights of a completion's tokens from the importances of its reasoning tokens.

        Args:
            importance: of each token, at least as far as the reasoning goes.
            bounds: the regions of the completion.
        """
        scores = torch.as_tensor(importance, dtype=torch.float32)[None, : bounds.reasoned]
        weights = torch.ones(bounds.length)
        if scores.numel() == 0 or bool((scores == scores[0, 0]).all()):
            return weights
        floor = self.low + (self.high - self.low) * self.least
        all_tokens = torch.ones_like(scores, dtype=torch.bool)
        weights[: bounds.reasoned] = between(scores, all_tokens, floor, self.high)[0]
        weights[bounds.reasoned : bounds.answered] = self.answer
        weights[bounds.answered :] = self.rest
        return weights
