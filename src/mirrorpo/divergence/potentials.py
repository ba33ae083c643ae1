"""Convex potentials phi(p) = sum_v f(p_v), each given by f and its derivative, the mirror map.

Both take probabilities in (0, 1], in float64 when called by `bregman`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Potential(Protocol):
    """A function of one probability and its derivative.

    `convex` says that f is strictly convex; only then is its Bregman divergence >= 0. Probabilities
    below exp(`log_floor`) count as that and get no gradient; it is where f' would leave float64 (-690,
    about 1e-300) or, when f' is a power of 1/p, float32 (-80, about 2e-35). `fingerprint` names the numbers
    of a map that was drawn or learned, and is None for a formula.
    """

    @property
    def convex(self) -> bool: ...

    @property
    def log_floor(self) -> float: ...

    @property
    def fingerprint(self) -> str | None: ...

    def f(self, p: Tensor) -> Tensor: ...

    def df(self, p: Tensor) -> Tensor: ...


@runtime_checkable
class HasPotential(Protocol):
    """Something made of a potential: a Bregman divergence, or a table of another potential."""

    @property
    def potential(self) -> Potential: ...


@runtime_checkable
class SumsItself(Protocol):
    """A potential that has a quicker form of its divergence's terms than `f` and `df`, all in
    log-probabilities.

    `bregman` is d(p, q), `bregman_slope` its derivative with respect to log p.
    """

    def bregman(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...

    def bregman_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...


@runtime_checkable
class ClosedForm(Protocol):
    """A potential whose divergence has a form in log-probabilities that needs no wider type than theirs.

    Little cancels where p is near q, and nothing overflows. `closed` is d(p, q), `closed_slope` its
    derivative with respect to log p, `closed_slope_of_second` that with respect to log q; each in a new
    tensor.
    """

    def closed(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...

    def closed_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...

    def closed_slope_of_second(self, log_p: Tensor, log_q: Tensor) -> Tensor: ...


# No probability below exp(-80), about 2e-35, in an exponential's argument: float32 ends at exp(88).
LEAST = -80.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NegativeEntropy:
    """f(p) = p log p, whose Bregman divergence is KL: sum_v p log(p/q) - p + q.

    Example:
        >>> import torch
        >>> NegativeEntropy().df(torch.tensor(1.0))
        tensor(1.)

    References:
        Beck and Teboulle 2003, Mirror descent and nonlinear projected subgradient methods, section 5
    """

    convex: ClassVar[bool] = True
    log_floor: ClassVar[float] = -690.0
    fingerprint: ClassVar[str | None] = None

    def f(self, p: Tensor) -> Tensor:
        return p * p.log()

    def df(self, p: Tensor) -> Tensor:
        return p.log() + 1

    def closed(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # p (e^g - 1 - g) with g = log q - log p.
        p = log_p.clamp(min=LEAST)
        gap = log_q.clamp(min=self.log_floor).sub_(p)
        return gap.expm1().sub_(gap).mul_(p.exp_())

    def closed_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        p, q = log_p.clamp(min=self.log_floor), log_q.clamp(min=self.log_floor)
        return torch.sub(p, q, out=q).mul_(p.exp_())

    def closed_slope_of_second(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_q.exp().sub_(log_p.exp()).masked_fill_(log_q < self.log_floor, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ItakuraSaito:
    """f(p) = -log p (Burg entropy), whose Bregman divergence is sum_v p/q - log(p/q) - 1.

    It depends on ratios only, so a token of no probability counts as much as a likely one.

    Example:
        >>> import torch
        >>> ItakuraSaito().df(torch.tensor(0.5))
        tensor(-2.)

    References:
        Banerjee et al. 2005, Clustering with Bregman divergences, table 1, https://www.jmlr.org/papers/v6/banerjee05b.html
    """

    convex: ClassVar[bool] = True
    log_floor: ClassVar[float] = -80.0
    fingerprint: ClassVar[str | None] = None

    def f(self, p: Tensor) -> Tensor:
        return -p.log()

    def df(self, p: Tensor) -> Tensor:
        return -1 / p

    def closed(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        gap = self._gap(log_p, log_q)
        return gap.expm1().sub_(gap)

    def closed_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self._gap(log_p, log_q).expm1_().masked_fill_(log_p < self.log_floor, 0.0)

    def closed_slope_of_second(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self._gap(log_p, log_q).expm1_().neg_().masked_fill_(log_q < self.log_floor, 0.0)

    def _gap(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_p.clamp(min=self.log_floor).sub_(log_q.clamp(min=self.log_floor))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tsallis:
    """f(p) = (p^q - p) / (q - 1), negative Tsallis entropy of order q.

    q -> 1 is negative entropy, q = 2 gives ProbL2; q < 1 weighs unlikely tokens more than KL does.

    Attributes:
        q: the order, > 0 and not 1.

    Example:
        >>> import torch
        >>> Tsallis(q=2.0).df(torch.tensor(0.5))
        tensor(0.)

    References:
        Tsallis 1988, Possible generalization of Boltzmann-Gibbs statistics, https://doi.org/10.1007/BF01016429
    """

    convex: ClassVar[bool] = True
    log_floor: ClassVar[float] = -80.0
    fingerprint: ClassVar[str | None] = None

    q: float

    def __post_init__(self) -> None:
        if self.q <= 0 or self.q == 1:
            raise ValueError(
                f"divergence.potential.q={self.q}: give a positive order other than 1, where it is "
                f"NegativeEntropy"
            )

    def f(self, p: Tensor) -> Tensor:
        return (p**self.q - p) / (self.q - 1)

    def df(self, p: Tensor) -> Tensor:
        return (self.q * p ** (self.q - 1) - 1) / (self.q - 1)

    def closed(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # y^q (e^(q g) - 1 - q (e^g - 1)) / (q - 1) with y the second probability and g the gap of logs.
        second = self._floored(log_q)
        gap = self._floored(log_p).sub_(second)
        gap = gap.mul(self.q).expm1_().sub_(gap.expm1_(), alpha=self.q)
        return gap.mul_(second.mul_(self.q).exp_()).div_(self.q - 1)

    def closed_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        first, second = self._floored(log_p), self._floored(log_q).mul_(self.q - 1)
        rise = torch.sub(first * (self.q - 1), second).expm1_()
        slope = second.add_(first).exp_().mul_(rise).mul_(self.q / (self.q - 1))
        return slope.masked_fill_(log_p < self.log_floor, 0.0)

    def closed_slope_of_second(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        second = self._floored(log_q)
        gap = second.exp().sub_(log_p.exp())
        return gap.mul_(second.mul_(self.q - 1).exp_()).mul_(self.q).masked_fill_(log_q < self.log_floor, 0.0)

    def _floored(self, logs: Tensor) -> Tensor:
        # A power of a smaller probability would overflow as its inverse.
        return logs.clamp(min=LEAST / max(self.q, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Square:
    """f(p) = factor p^2, whose Bregman divergence is factor * sum_v (p_v - q_v)^2.

    Attributes:
        factor: 1 in the papers' public code (ProbL2); 1/2 makes the mirror map the identity.

    Example:
        >>> import torch
        >>> Square(factor=1.0).df(torch.tensor(0.5))
        tensor(1.)

    References:
        Yuan et al. 2026 (GBMPO, ProbL2), https://arxiv.org/abs/2602.04380
    """

    convex: ClassVar[bool] = True
    log_floor: ClassVar[float] = -690.0
    fingerprint: ClassVar[str | None] = None

    factor: float

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError(
                f"divergence.potential.factor={self.factor}: a convex potential needs a positive factor"
            )

    def f(self, p: Tensor) -> Tensor:
        return self.factor * p.square()

    def df(self, p: Tensor) -> Tensor:
        return 2 * self.factor * p

    def closed(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_p.exp().sub_(log_q.exp()).square_().mul_(self.factor)

    def closed_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        p, q = log_p.exp(), log_q.exp()
        return torch.sub(p, q, out=q).mul_(p).mul_(2 * self.factor)

    def closed_slope_of_second(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self.closed_slope(log_q, log_p)
