"""Generators of f-divergences, D_f(p, q) = sum_v q_v f(p_v / q_v): the term of each, and its slope.

f is convex with f(1) = f'(1) = 0. The condition on f' takes a multiple of u - 1 off f, whose sum over the
vocabulary is zero, and makes every single term >= 0.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """One term d(p, q) = q f(p / q), in log-probabilities, and p f'(p / q), its derivative in log p.

    Both are new tensors in the arguments' type, and need no wider one: little cancels where p is near q, and
    nothing overflows. A term is homogeneous of degree one in (p, q), so that its derivative in log q is what
    the slope leaves of it. Probabilities below exp(`log_floor`) count as that.
    """

    @property
    def log_floor(self) -> float: ...

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...


@runtime_checkable
class HasGenerator(Protocol):
    """A divergence made of a generator."""

    @property
    def generator(self) -> Generator: ...


# Float32 ends at exp(88). Logs this far apart are of probabilities whose ratio counts as zero.
LARGEST, FARTHEST = 80.0, 1e4
# Of what needs no floor.
NO_FLOOR = -math.inf


def _gap(log_p: Tensor, log_q: Tensor) -> Tensor:
    # log p - log q, zero where both are minus infinity.
    return log_p.sub(log_q).nan_to_num_(nan=0.0, posinf=FARTHEST, neginf=-FARTHEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class JensenShannon:
    """f(u) = (u log u - (1 + u) log((1 + u) / 2)) / 2, whose divergence is Jensen-Shannon's:
    KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2.

    Between 0 and log 2, symmetric in p and q. f'(u) = log(2 u / (1 + u)) / 2.

    Example:
        >>> JensenShannon().term(torch.tensor([1.0]).log(), torch.tensor([0.0]).log())
        tensor([0.3466])

    References:
        Lin 1991, Divergence measures based on the Shannon entropy, https://doi.org/10.1109/18.61115
    """

    log_floor: ClassVar[float] = NO_FLOOR

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # With a = log((1 + e^-|x|) / 2), x = log(p / q): -((p + q) a + min(p, q) |x|) / 2.
        gap = _gap(log_p, log_q).abs_().neg_()
        fall = gap.expm1()
        middle = fall.div(2).log1p_()
        # Over the larger of the two, p + q is e^-|x| + 1, the smaller e^-|x|.
        both = middle.mul_(fall + 2)
        return fall.add_(1).mul_(gap).sub_(both).mul_(torch.maximum(log_p, log_q).exp_()).div_(2)

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        gap = _gap(log_p, log_q)
        middle = gap.abs().neg_().expm1_().div_(2).log1p_()
        # log(m / p), of either sign of the gap.
        return middle.add_(gap.neg_().clamp_(min=0)).mul_(log_p.exp()).div_(-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alpha:
    """f(u) = (u^alpha - 1 - alpha (u - 1)) / (alpha (alpha - 1)), the power family of Cressie and Read.

    alpha -> 1 is KL(p, q), alpha -> 0 KL(q, p); 1/2 is four times squared Hellinger, 2 half of chi-square's
    sum (p - q)^2 / q and -1 half of sum (p - q)^2 / p. Swapping p and q makes alpha 1 - alpha. Amari's
    parameter is 2 alpha - 1. Above 0, alpha weighs mass that q lacks more the larger it is; below, mass that
    p lacks. f'(u) = (u^(alpha - 1) - 1) / (alpha - 1).

    Attributes:
        alpha: any number but 0 and 1.

    Example:
        >>> Alpha(alpha=2.0).term(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
        tensor([0.1250])

    References:
        Cressie and Read 1984, https://doi.org/10.1111/j.2517-6161.1984.tb01318.x
    """

    alpha: float

    def __post_init__(self) -> None:
        if self.alpha in (0, 1) or not abs(self.alpha) <= LARGEST:
            raise ValueError(
                f"divergence.generator.alpha={self.alpha}: give a number other than 0 and 1, which are "
                "divergence=kl_forward_exact and kl_exact"
            )

    @property
    def log_floor(self) -> float:
        """Where the power of an inverse would leave float32, or between 0 and 1 about where float64 ends."""
        growth = max(-self.alpha, self.alpha - 1)
        return -690.0 if growth < 0 else -LARGEST / max(growth, 1)

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # M (expm1(b y) - b expm1(y)) / (b (b - 1)) with M the larger of p and q, y = -|x|, and b alpha where
        # p is the smaller, else 1 - alpha.
        first, second = self._floored(log_p), self._floored(log_q)
        most = torch.maximum(first, second)
        gap = first.sub_(second)
        order = (gap > 0).to(gap.dtype).mul_(1 - 2 * self.alpha).add_(self.alpha)
        gap.abs_().neg_()
        power = gap.mul(order).expm1_()
        term = power.sub_(order.mul_(gap.expm1_())).div_(self.alpha * (self.alpha - 1))
        return term.mul_(most.exp_())

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # p (e^s - 1) / (alpha - 1) with s = (alpha - 1) x: p itself, or p e^s, times what is below one.
        first, second = self._floored(log_p), self._floored(log_q)
        steps = torch.sub(first, second, out=second).mul_(self.alpha - 1)
        scale = first.add_(steps.clamp(min=0)).exp_()
        rise = steps.abs().neg_().expm1_().mul_(steps.sgn_())
        return scale.mul_(rise).div_(1 - self.alpha)

    def _floored(self, logs: Tensor) -> Tensor:
        return logs.clamp(min=self.log_floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredHellinger:
    """f(u) = (sqrt(u) - 1)^2 / 2, whose divergence is sum (sqrt(p) - sqrt(q))^2 / 2.

    Between 0 and 1, symmetric in p and q. f'(u) = (1 - 1 / sqrt(u)) / 2.

    Example:
        >>> SquaredHellinger().term(torch.tensor([1.0]).log(), torch.tensor([0.0]).log())
        tensor([0.5000])

    References:
        Hellinger 1909, https://doi.org/10.1515/crll.1909.136.210
    """

    log_floor: ClassVar[float] = NO_FLOOR

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        most = torch.maximum(log_p, log_q).exp_()
        return _gap(log_p, log_q).abs_().div_(-2).expm1_().square_().mul_(most).div_(2)

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # sqrt(p) (sqrt(p) - sqrt(q)) / 2.
        gap = _gap(log_p, log_q)
        rise = gap.abs().div_(-2).expm1_().mul_(gap.sgn_())
        return torch.maximum(log_p, log_q).add_(log_p).div_(2).exp_().mul_(rise).div_(-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class TotalVariation:
    """f(u) = |u - 1| / 2, whose divergence is sum |p - q| / 2.

    Between 0 and 1, symmetric in p and q, and not differentiable where p_v = q_v: the subgradient taken there
    is zero, so that a policy at its anchor stays. f'(u) = sign(u - 1) / 2 elsewhere, whatever the distance.

    Example:
        >>> TotalVariation().term(torch.tensor([1.0]).log(), torch.tensor([0.0]).log())
        tensor([0.5000])

    References:
        As an f-divergence, Csiszar 1967; as the bound of a trust region, Schulman et al. 2015,
        https://arxiv.org/abs/1502.05477
    """

    log_floor: ClassVar[float] = NO_FLOOR

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        most = torch.maximum(log_p, log_q).exp_()
        return _gap(log_p, log_q).abs_().neg_().expm1_().mul_(most).div_(-2)

    def slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return _gap(log_p, log_q).sgn_().mul_(log_p.exp()).div_(2)
