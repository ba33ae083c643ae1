"""Where a penalty acts: in the loss, through the advantages, or both."""

import torch

from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Placement
from mirrorpo.core.shapes import PerCompletion, PerToken, TokenMask

IN_LOSS = ("loss", "loss_to_go")


def token_credit(divergence: PerToken, mask: TokenMask, placement: Placement) -> PerToken:
    """What the penalty takes from each token's advantage, before its coefficient.

        loss          0
        reward        d_t
        reward_to_go  sum over s >= t of d_s
        loss_to_go    sum over s >  t of d_s
        completion    0; the completion's reward has lost it before the advantage is taken

    Sums are over the trained tokens of a completion.

    Args:
        divergence: [B, T], d of the old policy to the anchor.
        mask: trained tokens.
        placement: the setting `divergence.placement`.

    Value: zero at other tokens. Gradient: none.

    Example:
        >>> drops = torch.tensor([[1.0, 2.0, 4.0]])
        >>> for placement in ("reward", "reward_to_go", "loss_to_go"):
        ...     token_credit(drops, torch.ones(1, 3, dtype=torch.bool), placement)
        tensor([[1., 2., 4.]])
        tensor([[7., 6., 4.]])
        tensor([[6., 4., 0.]])

    References:
        Tang & Munos 2025, "On a few pitfalls in KL divergence gradient estimation for RL" (what the loss form
        drops), https://arxiv.org/abs/2506.09477
        Shah et al. 2025, "A comedy of estimators", https://arxiv.org/abs/2512.21852
    """
    values = masked(divergence.detach(), mask)
    if placement == "reward":
        return values
    if placement not in ("reward_to_go", "loss_to_go"):
        return torch.zeros_like(values)
    to_go = values.flip(1).cumsum(1).flip(1)
    return masked(to_go if placement == "reward_to_go" else to_go - values, mask)


def completion_cost(divergence: PerToken, mask: TokenMask, placement: Placement) -> PerCompletion:
    """What the penalty takes from each completion's reward, before its coefficient: with
    `placement="completion"` the sum over its trained tokens, else zero.

    Gradient: none.

    References:
        Ahmadian et al. 2024 (RLOO), section 2, https://arxiv.org/abs/2402.14740
    """
    total = masked(divergence.detach(), mask).sum(dim=1)
    return total if placement == "completion" else torch.zeros_like(total)
