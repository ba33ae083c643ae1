"""Masked and grouped reductions: the only place, with `algo/aggregate.py`, that divides by a mask.

Values under a False mask never reach a result or a gradient, even when they are NaN or infinite:
they are replaced with `where`, not multiplied by zero.
"""

import torch
from torch import Tensor

from mirrorpo.core.shapes import GroupIds, PerCompletion, PerToken, Scalar, TokenMask
from mirrorpo.core.tensors import distinct_index


def masked(values: PerToken, mask: TokenMask) -> PerToken:
    """`values` where `mask` is True and exactly zero, in value and in gradient, elsewhere."""
    return torch.where(mask, values, torch.zeros_like(values))


def masked_sum(values: PerToken, mask: TokenMask) -> Scalar:
    """Sum over the tokens that count; zero, with a gradient of zero, when none does."""
    return masked(values, mask).sum()


def masked_mean(values: PerToken, mask: TokenMask) -> Scalar:
    """Mean over the tokens that count; zero when none does.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0, float("nan")]]), torch.tensor([[True, True, False]]))
        tensor(2.)
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def mean_one(weights: PerToken, mask: TokenMask) -> PerToken:
    """Token weights scaled to mean one over each completion's trained tokens, so that no arm is a
    hidden learning rate.

    Constant weights give ones to the bit. A completion whose weights sum to zero keeps zeros.

    Raises:
        ValueError: if a weight of a trained token is negative or not finite.

    Example:
        >>> mean_one(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[0.5000, 1.5000, 0.0000]])
    """
    weights = masked(weights.detach(), mask)
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError(
            "token weights must be finite and non-negative on trained tokens; the weighting returned others"
        )
    count = mask.sum(dim=1, keepdim=True)
    total = weights.sum(dim=1, keepdim=True)
    # Scaling by (w * n) / sum is not exact for constant weights, so they are recognised.
    highest = weights.amax(dim=1, keepdim=True)
    constant = (masked(highest - weights, mask) == 0).all(dim=1, keepdim=True) & (highest > 0)
    scaled = weights * count / total.clamp(min=torch.finfo(weights.dtype).tiny)
    return masked(torch.where(constant, torch.ones_like(scaled), scaled), mask)


def group_mean(values: PerCompletion, group: GroupIds) -> PerCompletion:
    """For each completion, the mean of `values` over its group.

    NaN marks a completion without a verdict; it is left out of the mean. A group of only NaN has
    the mean zero.

    Example:
        >>> group_mean(torch.tensor([1.0, 0.0, 5.0, float("nan")]), torch.tensor([7, 7, 3, 3]))
        tensor([0.5000, 0.5000, 5.0000, 5.0000])
    """
    index = distinct_index(group)
    known = ~values.isnan()
    total = _per_group(torch.where(known, values, torch.zeros_like(values)), index)
    count = _per_group(known.to(values.dtype), index)
    return (total / count.clamp(min=1)).to(values.dtype)[index]


def group_size(values: PerCompletion, group: GroupIds) -> PerCompletion:
    """For each completion, how many completions of its group have a value (are not NaN)."""
    index = distinct_index(group)
    return _per_group((~values.isnan()).to(values.dtype), index).to(values.dtype)[index]


def _per_group(values: Tensor, index: Tensor) -> Tensor:
    # A one-hot product sums in a fixed order; index_add_ on CUDA does not.
    one_hot = index[None, :] == torch.arange(int(index.max()) + 1, device=index.device)[:, None]
    # In float64 equal float32 rewards have exactly their own value as mean, so none of them gets an
    # advantage.
    return torch.where(one_hot, values[None, :], torch.zeros_like(values)[None, :]).double().sum(dim=1)
