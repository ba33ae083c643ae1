"""Credit of a token as a function of its log-ratio and its advantage; a loss, to be minimised."""

from dataclasses import dataclass

import torch

from mirrorpo.core.shapes import PerToken, TokenMask

# The log-ratio from which on `importance` goes on as a straight line.
LARGEST = 20.0


def importance(log_ratio: PerToken) -> PerToken:
    """exp(log_ratio), continued as its tangent beyond 20, where a token has run away.

    Value: finite for any finite log-ratio; exp alone overflows float32 at 89, and an infinity times an
    advantage of zero is NaN. Gradient: exp's, and exp(20) beyond, so that it never dies.
    """
    near = log_ratio.clamp(max=LARGEST)
    return near.exp() * (1 + (log_ratio - near))


@dataclass(frozen=True, kw_only=True, slots=True)
class Clipped:
    """PPO's pessimistic clipped surrogate, with separate lower and upper bounds.

        loss_t = -min( r_t A_t,  clip(r_t, 1 - low, 1 + high) A_t )

    where r_t = exp(log_ratio_t) is the importance ratio pi_theta / pi_old and A_t the advantage.
    low == high is PPO and GRPO; high > low is DAPO's "clip-higher". With dual_clip = c, where A_t < 0

        loss_t = min( -min( r_t A_t,  clip(r_t, 1 - low, 1 + high) A_t ),  -c A_t )

    which bounds what a single token that has run away from a bad answer's probability can weigh; it is verl's
    `clip_ratio_c` and TRL's `delta`, which are one function where both are at least 1 + high.

    Value: equals -r_t A_t inside the trust region and is never below it, but for the bound of dual_clip.

    Gradient: -A_t r_t grad log pi_theta(y_t), and exactly zero where the ratio has already left the
    trust region in the direction the advantage pushes it (A_t > 0 and r_t > 1 + high, or A_t < 0 and
    r_t < 1 - low), and where A_t < 0 and r_t > dual_clip. At r_t = 1 it is the REINFORCE gradient,
    -A_t grad log pi_theta(y_t).

    Attributes:
        low: how far below 1 the ratio is still trusted, in [0, 1).
        high: how far above 1 the ratio is still trusted, > 0.
        dual_clip: where A_t < 0 the ratio counts as at most this, at least 1 + high; None bounds nothing.

    Example:
        Two tokens want to go up, one wants to go down; the first has gone far enough, and so has
        the third.

        >>> log_ratio = torch.tensor([[1.5, 1.1, 0.5]]).log().requires_grad_()
        >>> advantage = torch.tensor([[1.0, 1.0, -1.0]])
        >>> loss = Clipped(low=0.2, high=0.28)(log_ratio, advantage)
        >>> loss.detach()
        tensor([[-1.2800, -1.1000,  0.8000]])
        >>> torch.autograd.grad(loss.sum(), log_ratio)[0]
        tensor([[ 0.0000, -1.1000,  0.0000]])

    References:
        Schulman et al. 2017 (PPO), Eq. 7, https://arxiv.org/abs/1707.06347
        Yu et al. 2025 (DAPO, clip-higher), https://arxiv.org/abs/2503.14476
        Ye et al. 2020 (dual clip), https://arxiv.org/abs/1912.09729
    """

    low: float
    high: float
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.low < 1 and self.high > 0):
            raise ValueError(
                f"algo.surrogate.low={self.low}, high={self.high}: need 0 <= low < 1 and high > 0"
            )
        if self.dual_clip is not None and not self.dual_clip >= 1 + self.high:
            raise ValueError(
                f"algo.surrogate.dual_clip={self.dual_clip}: it bounds the ratio itself; give "
                f"{1 + self.high} (1 + high) or more, or null"
            )

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken:
        ratio = importance(log_ratio)
        trusted = ratio.clamp(1 - self.low, 1 + self.high)
        if self.dual_clip is not None:
            ratio = torch.where(advantage < 0, ratio.clamp(max=self.dual_clip), ratio)
        return -torch.minimum(ratio * advantage, trusted * advantage)

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask:
        """Tokens with a nonzero advantage and exactly zero gradient."""
        ratio = importance(log_ratio.detach())
        too_low = ratio < 1 - self.low
        if self.dual_clip is not None:
            too_low = too_low | (ratio > self.dual_clip)
        return ((advantage > 0) & (ratio > 1 + self.high)) | ((advantage < 0) & too_low)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unclipped:
    """The importance-weighted policy gradient, without a trust region.

        loss_t = -r_t A_t

    Value: minus the advantage at r_t = 1. Gradient: -A_t r_t grad log pi_theta(y_t), nowhere cut off.

    Example:
        >>> Unclipped()(torch.zeros(1, 1), torch.tensor([[2.0]]))
        tensor([[-2.]])

    References:
        Williams 1992 (REINFORCE), https://doi.org/10.1007/BF00992696
    """

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken:
        return -importance(log_ratio) * advantage

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask:
        """No token."""
        return torch.zeros_like(advantage, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedWeight:
    """The policy gradient weighted by a clipped ratio that carries no gradient.

        loss_t = -sg( clip(r_t, 1 - low, 1 + high) ) A_t log r_t

    with sg the stop-gradient.

    Value: zero at r_t = 1. Gradient: -clip(r_t, 1 - low, 1 + high) A_t grad log pi_theta(y_t): no token
    ever loses its gradient, far ones only stop growing.

    Attributes:
        low: the weight is not below 1 - low, in [0, 1]; 1 leaves the lower side open.
        high: nor above 1 + high, > 0.

    Example:
        >>> log_ratio = torch.tensor([[9.0, 1.5]]).log().requires_grad_()
        >>> loss = ClippedWeight(low=1.0, high=4.0)(log_ratio, torch.ones(1, 2))
        >>> torch.autograd.grad(loss.sum(), log_ratio)[0]
        tensor([[-5.0000, -1.5000]])

    References:
        MiniMax 2025 (CISPO), https://arxiv.org/abs/2506.13585
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high > 0):
            raise ValueError(
                f"algo.surrogate.low={self.low}, high={self.high}: need 0 <= low <= 1 and high > 0"
            )

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken:
        weight = importance(log_ratio.detach()).clamp(1 - self.low, 1 + self.high)
        return -weight * advantage * log_ratio

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask:
        """Tokens whose weight is 0: an open lower side and a ratio that underflows."""
        weight = importance(log_ratio.detach()).clamp(1 - self.low, 1 + self.high)
        return (weight == 0) & (advantage != 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftGate:
    """A sigmoid gate on the ratio in place of a clip.

        loss_t = -(4 / tau) sigmoid( tau (r_t - 1) ) A_t
        tau = tau_positive where A_t > 0, else tau_negative

    Value: -(2 / tau) A_t at r_t = 1. Gradient: -4 s (1 - s) r_t A_t grad log pi_theta(y_t) with s the
    sigmoid: the REINFORCE gradient at r_t = 1, fading smoothly on both sides.

    Attributes:
        tau_positive: steepness for tokens that are pushed up, > 0.
        tau_negative: steepness for tokens that are pushed down, > 0.

    Example:
        >>> log_ratio = torch.zeros(1, 1, requires_grad=True)
        >>> loss = SoftGate(tau_positive=1.0, tau_negative=1.05)(log_ratio, torch.ones(1, 1))
        >>> torch.autograd.grad(loss.sum(), log_ratio)[0]
        tensor([[-1.]])

    References:
        Gao et al. 2025 (SAPO), https://arxiv.org/abs/2511.20347
    """

    tau_positive: float
    tau_negative: float

    def __post_init__(self) -> None:
        if self.tau_positive <= 0 or self.tau_negative <= 0:
            raise ValueError(
                f"algo.surrogate.tau_positive={self.tau_positive}, tau_negative={self.tau_negative}: "
                "give positive numbers"
            )

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken:
        tau = self._tau(advantage)
        return -(4 / tau) * torch.sigmoid(tau * (importance(log_ratio) - 1)) * advantage

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask:
        """Tokens whose gate is shut to the last digit."""
        tau = self._tau(advantage)
        gate = torch.sigmoid(tau * (importance(log_ratio.detach()) - 1))
        return (gate * (1 - gate) == 0) & (advantage != 0)

    def _tau(self, advantage: PerToken) -> PerToken:
        return torch.where(
            advantage > 0,
            torch.full_like(advantage, self.tau_positive),
            torch.full_like(advantage, self.tau_negative),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NegativeLogLikelihood:
    """The log-likelihood of demonstrations, as a loss.

        loss_t = -A_t log pi_theta(y_t)

    Value: >= 0 for A_t >= 0. Gradient: -A_t grad log pi_theta(y_t), nowhere cut off. Takes the
    log-ratio of `ratio.Likelihood`.

    Example:
        >>> NegativeLogLikelihood()(torch.tensor([[-2.0]]), torch.tensor([[1.0]]))
        tensor([[2.]])
    """

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken:
        return -advantage * log_ratio

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask:
        """No token."""
        return torch.zeros_like(advantage, dtype=torch.bool)
