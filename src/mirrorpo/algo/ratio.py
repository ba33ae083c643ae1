"""Log importance ratios, per token."""

from dataclasses import dataclass

import torch

from mirrorpo.core.masked import masked
from mirrorpo.core.shapes import PerToken, TokenMask


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRatio:
    """Each token's importance ratio, as a logarithm.

        log r_t = log pi_theta(y_t) - log pi_old(y_t)

    Value: zero on the first update of a rollout. Gradient: grad log pi_theta(y_t), also there.

    Example:
        >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, 0.0]])
        >>> TokenRatio()(new, old, torch.tensor([[True, False]]), torch.ones(1, 2))
        tensor([[0.5000, 0.0000]])

    References:
        Schulman et al. 2017 (PPO), https://arxiv.org/abs/1707.06347
    """

    def __call__(
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerToken
    ) -> PerToken:
        return masked(logprobs - old_logprobs.detach(), mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceRatio:
    """The length-normalised ratio of the full completion, on each of its tokens.

        log s_it = sg( mean_t log r_it ) + log pi_theta(y_t) - sg( log pi_theta(y_t) )

    with sg the stop-gradient: GSPO-token, which equals GSPO in value, clipping and gradient when the
    tokens of a completion share their advantage, and lets token weights act.

    Value: the same for all tokens of a completion; zero on the first update. Gradient: grad log
    pi_theta(y_t), so that a mean over the tokens has the gradient of the sequence's ratio.

    Example:
        >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
        >>> SequenceRatio()(new, old, torch.tensor([[True, True]]), torch.ones(1, 2))
        tensor([[0.2500, 0.2500]])

    References:
        Zheng et al. 2025 (GSPO), sections 4.1 and 4.3, https://arxiv.org/abs/2507.18071
    """

    def __call__(
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerToken
    ) -> PerToken:
        return _on_every_token(masked(logprobs - old_logprobs.detach(), mask), mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometricMean:
    """The geometric mean of token ratios, each cut on the side its advantage pushes it to.

        log g_it = sg( mean_t c_it ) + c_it - sg( c_it )
        c_it = min( log r_it, high ) where A_it > 0,   max( log r_it, -low ) where A_it < 0,
               log r_it where A_it = 0

    Value: zero on the first update. Gradient: grad log pi_theta(y_t), and exactly zero for a token
    whose ratio was cut; the other tokens of its completion go on.

    Attributes:
        low: the log-ratio is not let below -low where the advantage is negative, > 0.
        high: nor above high where it is positive, > 0.

    Example:
        >>> ratio = GeometricMean(low=0.4, high=0.4)
        >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -2.0]])
        >>> ratio(new, old, torch.tensor([[True, True]]), torch.ones(1, 2))
        tensor([[0.2000, 0.2000]])

    References:
        Zhao et al. 2025 (GMPO), https://arxiv.org/abs/2507.20673
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low <= 0 or self.high <= 0:
            raise ValueError(
                f"algo.ratio.low={self.low}, high={self.high}: these bound log-ratios; give positive numbers"
            )

    def __call__(
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerToken
    ) -> PerToken:
        log_ratio = masked(logprobs - old_logprobs.detach(), mask)
        cut = torch.where(
            advantages > 0,
            log_ratio.clamp(max=self.high),
            torch.where(advantages < 0, log_ratio.clamp(min=-self.low), log_ratio),
        )
        return _on_every_token(cut, mask)


def _on_every_token(log_ratio: PerToken, mask: TokenMask) -> PerToken:
    # The value is the completion's mean, the gradient that of each token alone.
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (log_ratio.detach().sum(dim=1, keepdim=True) / count).expand_as(log_ratio)
    return masked(mean + (log_ratio - log_ratio.detach()), mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihood:
    """The log-probability itself: the log-ratio to a measure that gives every token one.

        log r_t = log pi_theta(y_t)

    Value: <= 0. Gradient: grad log pi_theta(y_t). The old policy is not read: demonstrations were
    sampled by nobody.

    Example:
        >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-9.0, -9.0]])
        >>> Likelihood()(new, old, torch.tensor([[True, False]]), torch.ones(1, 2))
        tensor([[-1.,  0.]])
    """

    def __call__(
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerToken
    ) -> PerToken:
        return masked(logprobs, mask)
