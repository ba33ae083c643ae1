"""Trust regions by divergence: which tokens an update may still move away from the old policy, and how much.

Each gives a factor on a token's credit, beside whatever the surrogate clips.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Assembly, Divergence, Inert, ReadsOldTop, TrustRegion
from mirrorpo.core.shapes import PerToken, TokenMask
from mirrorpo.core.top import likeliest

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


def bins(top: Tensor, token: Tensor, covered: Tensor) -> Tensor:
    """The log-probabilities of some tokens, of another one, and of all others together, [..., k + 2].

    Of no tokens it is `binary` to the bit.

    Args:
        top: log-probabilities of the tokens, [..., k].
        token: of the drawn one, [...].
        covered: whether that is among them, [...]; its own bin is then empty.

    Example:
        >>> bins(torch.tensor([[0.5, 0.2]]).log(), torch.tensor([0.2]).log(), torch.tensor([True])).exp()
        tensor([[5.0000e-01, 2.0000e-01, 1.0000e-08, 3.0000e-01]])
    """
    least = token.new_tensor(REST).log()
    mass = top.exp().sum(dim=-1) + token.exp().masked_fill(covered, 0.0)
    rest = (-mass.clamp(max=1.0)).log1p().clamp(min=least)
    # The same in both distributions, an empty bin is at no distance.
    return torch.cat([top, torch.where(covered, least, token)[..., None], rest[..., None]], dim=-1)


def at_every_token(region: ReadsOldTop, old: Tensor, policy: Tensor) -> Tensor:
    """The distance for each token that may be drawn, [..., V], from tables over the vocabulary."""
    ids = likeliest(old, region.top)
    top_old, top_policy = old.gather(-1, ids), policy.gather(-1, ids)
    if ids.shape[-1] == old.shape[-1]:
        return region.between(top_old, top_policy)[..., None].expand_as(old)
    covered = torch.zeros_like(old, dtype=torch.bool).scatter(-1, ids, True)
    wide = (*old.shape, ids.shape[-1])
    of_old, of_policy = (
        bins(top[..., None, :].expand(wide), table, covered)
        for top, table in ((top_old, old), (top_policy, policy))
    )
    return region.between(of_old, of_policy)


def top_of(region: TrustRegion) -> int:
    """How many of the old policy's likeliest tokens are kept for a region."""
    return region.top if isinstance(region, ReadsOldTop) else 0


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
    over: Literal["binary", "top", "vocabulary"]
    k: int | None = None

    def __post_init__(self) -> None:
        if self.divergence.reads != "vocabulary":
            raise ValueError(
                f"trust_region.divergence={type(self.divergence).__name__}: it reads a token's "
                "log-probabilities; a region wants a divergence between distributions, as *_exact"
            )
        _refuse_top(self.over, self.k)
        self._check()

    def _check(self) -> None: ...

    @property
    def reads(self) -> Literal["sampled", "top", "vocabulary"]:
        """What the distance is read of: the sampled token's log-probabilities, a few more, or all."""
        if self.over == "vocabulary":
            return "vocabulary"
        return "top" if self.top else "sampled"

    @property
    def top(self) -> int:
        """How many of the old policy's likeliest tokens have a bin of their own, beside the drawn one."""
        return self.k or 0 if self.over == "top" else 0

    def distance(self, old: Tensor, policy: Tensor) -> Tensor:
        """D(old, pi), from the sampled token's log-probabilities, or the vocabulary's [..., V]."""
        if self.reads == "top":
            return at_every_token(self, old, policy)
        if self.reads == "sampled":
            old, policy = binary(old), binary(policy)
        return self.between(old, policy)

    def between(self, old: Tensor, policy: Tensor) -> Tensor:
        """D(old, pi) of two distributions over the same bins, [..., n]."""
        return self.divergence(old, policy, policy.new_zeros(()))

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """That it never acts, where the policy never leaves the old one."""
        if assembly.config["updates_per_rollout"] == 1:
            yield (
                f"updates_per_rollout=1 with a {group} ({type(self).__name__}): the policy is the old one, "
                f"no token leaves it and {group} never acts; set updates_per_rollout=2 or more, or "
                f"{group}=none"
            )

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Everything, where the policy never leaves the old one."""
        if assembly.config["updates_per_rollout"] == 1:
            yield Inert(
                (group,),
                "with updates_per_rollout=1 the policy is the old one, and no token leaves it",
                "updates_per_rollout=2 or more",
            )
        if self.over != "top":
            yield Inert((f"{group}.k",), f"with {group}.over={self.over} k is not read", f"{group}.over=top")


def _refuse_top(over: str, k: int | None) -> None:
    if over == "top" and (k is None or k < 0):
        raise ValueError(f"trust_region.k={k}: a number of tokens, 0 (as over=binary) or more")


def _refuse(fault: bool, setting: str, value: object) -> None:
    if fault:
        raise ValueError(f"trust_region.{setting}={value}: give a number above 0; .inf bounds nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceRegion(_Region):
    """A token counts while the policy is near the old one there, or comes back to it.

        f_t = 1   if D_t <= delta, or A_t (pi(y_t) - pi_old(y_t)) <= 0,   else 0

    with D_t = D(pi_old, pi) at the token's state, over {y_t, all others} (`over: binary`), the vocabulary, or
    (`over: top`) the k likeliest tokens of pi_old, y_t, and all others together. That is binary at k = 0 and
    exact at k = V; elsewhere KL and total variation are between the two, since coarser bins are nearer. delta
    is `high` where A_t > 0 and `low` where A_t < 0.

    Value: one everywhere as long as the policy is the old one. Gradient: none. Binary total variation is
    |pi(y_t) - pi_old(y_t)|: a bound on the ratio of 1 +- delta / pi_old(y_t), so it is PPO's clip where and
    only where pi_old(y_t) = delta / epsilon.

    Attributes:
        divergence: between distributions; any that reads the vocabulary.
        over: "binary", "top" or "vocabulary".
        k: of `over: top`, how many tokens have a bin of their own; else not read.
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
        over: "binary", "top" or "vocabulary".
        k: of `over: top`, how many tokens have a bin of their own; else not read.
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
        over: "binary", "top" or "vocabulary".
        k: of `over: top`, how many tokens have a bin of their own; else not read.
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
