"""From importances of any size to weights in a range."""

import math

import torch

from mirrorpo.core.shapes import PerToken, TokenMask


def check_range(low: float, high: float) -> None:
    """Refuse a range of weights that is none.

    Raises:
        ValueError: naming the knobs.
    """
    if not 0 <= low < high < math.inf:
        raise ValueError(
            f"weighting.low={low}, weighting.high={high}: give two weights, low not negative and below high"
        )


def between(importance: PerToken, mask: TokenMask, low: float, high: float) -> PerToken:
    """Importances mapped linearly to [low, high], each completion by itself.

        w_t = low + (high - low) (s_t - min s) / (max s - min s)

    over the tokens of the mask; all `low` where they are equal, and `low` outside the mask.

    Example:
        >>> between(torch.tensor([[1.0, 3.0, 2.0, 9.0]]), torch.tensor([[True, True, True, False]]), 0.5, 2.0)
        tensor([[0.5000, 2.0000, 1.2500, 0.5000]])

    References:
        The two linear maps of paper A's public code put together, https://arxiv.org/abs/2602.09331
    """
    least = importance.masked_fill(~mask, math.inf).amin(dim=1, keepdim=True)
    gap = importance.masked_fill(~mask, -math.inf).amax(dim=1, keepdim=True) - least
    scaled = torch.where(mask & (gap > 0), (importance - least) / gap, 0.0)
    return low + (high - low) * scaled
