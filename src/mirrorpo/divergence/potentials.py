"""Convex potentials phi(p) = sum_v f(p_v), each given by f and its derivative, the mirror map.

Both take probabilities in (0, 1], in float64 when called by `bregman`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Potential(Protocol):
    """A strictly convex function of one probability and its derivative."""

    def f(self, p: Tensor) -> Tensor: ...

    def df(self, p: Tensor) -> Tensor: ...


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

    def f(self, p: Tensor) -> Tensor:
        return p * p.log()

    def df(self, p: Tensor) -> Tensor:
        return p.log() + 1


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

    factor: float

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError(f"divergence.potential.factor={self.factor}: a convex potential needs a positive factor")

    def f(self, p: Tensor) -> Tensor:
        return self.factor * p.square()

    def df(self, p: Tensor) -> Tensor:
        return 2 * self.factor * p
