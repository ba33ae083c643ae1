"""Credit by the old policy's uncertainty: the forking tokens, hard or soft."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.shapes import PerToken
from mirrorpo.weighting.scale import between, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class TopEntropy:
    """Credit for the most uncertain tokens only (the 80/20 rule).

        w_t = 1 if H_t is among the ceil(share * n) largest of n trained tokens, else 0

    Value: 0 or 1; the earlier of two equally uncertain tokens comes first. Gradient: none.

    Attributes:
        share: of the trained tokens that gets credit, in (0, 1].
        over: "completion" ranks within each completion; "batch" ranks all of the rollout's tokens, as
            the paper does, completions of advantage zero left out. Weights have mean one per completion
            afterwards, so with "batch" a completion with few uncertain tokens puts all its credit on
            those, and one with none has none.

    References:
        Wang et al. 2025, Beyond the 80/20 rule, section 5, https://arxiv.org/abs/2506.01939
    """

    share: float
    over: Literal["completion", "batch"]

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"weighting.share={self.share}: give the part of the tokens that gets credit, above 0 and at "
                "most 1"
            )

    def passes(self) -> Sequence[str]:
        """The old policy's entropies."""
        return ("a forward pass for the entropies",)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        entropy = scorer.entropies(batch).masked_fill(~batch.mask, -math.inf)
        rows = entropy.flatten()[None] if self.over == "batch" else entropy
        order = rows.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(rows.shape[1]).expand_as(order).contiguous()
        rank = torch.empty_like(order).scatter_(1, order, ranks)
        trained = rows.isfinite()
        # A product such as 0.2 * 5 may come out a hair above an integer.
        cutoff = (self.share * trained.sum(dim=1, keepdim=True).double() - 1e-9).ceil()
        return ((rank < cutoff) & trained).to(entropy.dtype).reshape(entropy.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftEntropy:
    """Credit that grows with the old policy's uncertainty.

        w_t = low + (high - low) (H_t - min H) / (max H - min H)

    over the trained tokens of each completion; ones where the entropies are equal, for then they say nothing.

    Value: in [low, high], or one. Gradient: none.

    Attributes:
        low: weight of the surest token, >= 0.
        high: weight of the most uncertain one, above low.

    References:
        The map is paper A's (2602.09331) from importance to weight; the signal that of Wang et al. 2025,
        https://arxiv.org/abs/2506.01939
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def passes(self) -> Sequence[str]:
        """The old policy's entropies."""
        return ("a forward pass for the entropies",)

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = between(scorer.entropies(batch), batch.mask, self.low, self.high)
        flat = (masked(weights, batch.mask) <= self.low).all(dim=1, keepdim=True)
        return torch.where(flat, torch.ones_like(weights), weights)
