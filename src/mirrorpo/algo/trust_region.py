"""Trust regions by divergence: which tokens an update may still move away from the old policy, and how much.

Each gives a factor on a token's credit, beside whatever the surrogate clips.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Assembly, Divergence, Inert
from mirrorpo.core.shapes import PerToken, TokenMask

# The least probability of all other tokens together.
REST = 1e-8


def binary(logprobs: Tensor) -> Tensor:
    """The log-probabilities of a token and of all others together, [..., 2].

    Example:
        >>> binary(torch.tensor([0.25]).log()).exp()
        tensor([[0.2500, 0.7500]])
    """
    rest = (-logprobs.exp()).log1p().clamp(min=torch.tensor(REST).log())
    return torch.stack([logprobs, rest], dim=-1)


def leaves(log_ratio: PerToken, advantages: PerToken) -> TokenMask:
    """Tokens that the update pushes further from the old policy: up where they are above it, down below."""
    return advantages * log_ratio > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTrustRegion:
    """No trust region: every token's credit is its own."""

    @property
    def reads(self) -> Literal["nothing"]:
        """Nothing."""
        return "nothing"

    def distance(self, old: Tensor, policy: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(policy)

    def __call__(
        self, distance: PerToken, log_ratio: PerToken, advantages: PerToken, mask: TokenMask
    ) -> PerToken:
        return torch.ones_like(log_ratio)


NO_TRUST_REGION = NoTrustRegion()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Region:
    # What the regions share: a divergence, what it is taken over, and when there is nothing to bound.
    divergence: Divergence
    over: Literal["binary", "vocabulary"]

    def __post_init__(self) -> None:
        if self.divergence.reads != "vocabulary":
            raise ValueError(
                f"trust_region.divergence={type(self.divergence).__name__}: it reads a token's "
                "log-probabilities; a region wants a divergence between distributions, as *_exact"
            )
        self._check()

    def _check(self) -> None: ...

    @property
    def reads(self) -> Literal["sampled", "vocabulary"]:
        """What the distance is read of: the sampled token's log-probabilities, or the vocabulary's."""
        return "sampled" if self.over == "binary" else "vocabulary"

    def distance(self, old: Tensor, policy: Tensor) -> Tensor:
        """D(old, pi), from the sampled token's log-probabilities, or the vocabulary's [..., V]."""
        if self.over == "binary":
            old, policy = binary(old), binary(policy)
        return self.divergence(old, policy, policy.new_zeros(()))

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Everything, where the policy never leaves the old one."""
        if assembly.config["updates_per_rollout"] == 1:
            yield Inert(
                (group,),
                "with updates_per_rollout=1 the policy is the old one, and no token leaves it",
                "updates_per_rollout=2 or more",
            )


def _refuse(fault: bool, setting: str, value: object) -> None:
    if fault:
        raise ValueError(f"trust_region.{setting}={value}: give a number above 0; .inf bounds nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceRegion(_Region):
    """A token counts while the policy is near the old one there, or comes back to it.

        f_t = 1   if D_t <= delta, or A_t (pi(y_t) - pi_old(y_t)) <= 0,   else 0

    with D_t = D(pi_old, pi) at the token's state, over {y_t, all others} (`over: binary`) or the vocabulary;
    delta is `high` where A_t > 0 and `low` where A_t < 0.

    Value: one everywhere as long as the policy is the old one. Gradient: none. Binary total variation is
    |pi(y_t) - pi_old(y_t)|: a bound on the ratio of 1 +- delta / pi_old(y_t), so it is PPO's clip where and
    only where pi_old(y_t) = delta / epsilon.

    Attributes:
        divergence: between distributions; any that reads the vocabulary.
        over: "binary" or "vocabulary".
        low: delta of tokens that are pushed down, > 0.
        high: delta of tokens that are pushed up, > 0.

    References:
        Qi et al. 2026 (DPPO), https://arxiv.org/abs/2602.04879, for total variation and KL
    """

    low: float
    high: float

    def _check(self) -> None:
        _refuse(not self.low > 0, "low", self.low)
        _refuse(not self.high > 0, "high", self.high)

    def __call__(
        self, distance: PerToken, log_ratio: PerToken, advantages: PerToken, mask: TokenMask
    ) -> PerToken:
        delta = torch.where(advantages > 0, self.high, self.low)
        outside = leaves(log_ratio, advantages) & (distance > delta)
        return (~outside).to(log_ratio.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothRegion(_Region):
    """A token's credit shrinks as the policy moves away, is zero at delta, and turns round beyond it.

        f_t = 1 - sign(A_t (pi(y_t) - pi_old(y_t))) D_t / delta

    With binary total variation the credit -r_t A_t has then the gradient of
    -( r_t A_t - |A_t| (pi - pi_old)^2 / (2 delta pi_old) ): a quadratic pull back that grows with the
    advantage.

    Value: one as long as the policy is the old one; above one on the way back. Gradient: none. D bounded,
    as total variation is, bounds it.

    Attributes:
        divergence: between distributions; any that reads the vocabulary.
        over: "binary" or "vocabulary".
        delta: distance at which nothing is left, > 0.

    References:
        Yao et al. 2026 (DRPO), https://arxiv.org/abs/2606.09821; the form is derived from its abstract
    """

    delta: float

    def _check(self) -> None:
        _refuse(not self.delta > 0, "delta", self.delta)

    def __call__(
        self, distance: PerToken, log_ratio: PerToken, advantages: PerToken, mask: TokenMask
    ) -> PerToken:
        return 1 - torch.sign(advantages * log_ratio) * distance / self.delta


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixBudget(_Region):
    """As `DivergenceRegion`, and only while the tokens before have not used up a budget.

        f_t = 1   if D_t <= delta_t and sum over s < t of D_s <= budget, or the update comes back,   else 0
        delta_t = delta (T / (T - t + 1))^power,   t = 1 .. T over the completion's trained tokens

    Value: one everywhere as long as the policy is the old one. Gradient: none. `power: 0` is one bound for
    all positions; 1 weighs a token's distance with the share of the completion that stands behind it.

    Attributes:
        divergence: between distributions; any that reads the vocabulary.
        over: "binary" or "vocabulary".
        delta: bound on the first token's distance, > 0.
        power: how fast it rises with the position, >= 0.
        budget: bound on the sum of distances before a token, > 0.

    References:
        Mao et al. 2026 (CPPO), https://arxiv.org/abs/2606.10968; the form of delta_t is ours
    """

    delta: float
    power: float
    budget: float

    def _check(self) -> None:
        _refuse(not self.delta > 0, "delta", self.delta)
        _refuse(not self.budget > 0, "budget", self.budget)
        if not self.power >= 0:
            raise ValueError(f"trust_region.power={self.power}: give 0 or more")

    def __call__(
        self, distance: PerToken, log_ratio: PerToken, advantages: PerToken, mask: TokenMask
    ) -> PerToken:
        values = masked(distance, mask)
        used = values.cumsum(dim=1) - values
        # Trained tokens from each on: T - t + 1.
        behind = mask.flip(1).cumsum(1).flip(1).clamp(min=1).to(distance.dtype)
        delta = self.delta * (mask.sum(dim=1, keepdim=True).clamp(min=1) / behind) ** self.power
        outside = leaves(log_ratio, advantages) & ((values > delta) | (used > self.budget))
        return (~outside).to(log_ratio.dtype)
