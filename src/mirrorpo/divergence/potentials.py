"""Convex potentials phi(p) = sum_v f(p_v), each given by f and its derivative, the mirror map.

Both take probabilities in (0, 1], in float64 when called by `bregman`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

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
