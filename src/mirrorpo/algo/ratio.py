"""Log importance ratios, per token."""

from dataclasses import dataclass

from mirrorpo.core.masked import masked
from mirrorpo.core.shapes import PerToken, TokenMask


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRatio:
    """Each token's own importance ratio, as a logarithm.

        log r_t = log pi_theta(y_t) - log pi_old(y_t)

    Value: zero on the first update of a rollout. Gradient: grad log pi_theta(y_t), also there.

    Example:
        >>> import torch
        >>> TokenRatio()(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, 0.0]]), torch.tensor([[True, False]]))
        tensor([[0.5000, 0.0000]])

    References:
        Schulman et al. 2017 (PPO), https://arxiv.org/abs/1707.06347
    """

    def __call__(self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask) -> PerToken:
        return masked(logprobs - old_logprobs.detach(), mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihood:
    """The log-probability itself: the log-ratio to a measure that gives every token one.

        log r_t = log pi_theta(y_t)

    Value: <= 0. Gradient: grad log pi_theta(y_t). The old policy is not read: demonstrations were
    sampled by nobody.

    Example:
        >>> import torch
        >>> Likelihood()(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-9.0, -9.0]]), torch.tensor([[True, False]]))
        tensor([[-1.,  0.]])
    """

    def __call__(self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask) -> PerToken:
        return masked(logprobs, mask)
