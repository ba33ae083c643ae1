"""Bregman divergences of a potential, read exactly or at the sampled token."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from mirrorpo.divergence.potentials import Potential

# exp(-690) is about 1e-300, still a normal number in float64; below it logarithms would be infinite.
LOG_FLOOR = -690.0


def integrand(potential: Potential, log_p: Tensor, log_q: Tensor) -> Tensor:
    """One term of the divergence for each probability.

        d(p, q) = f(p) - f(q) - f'(q) (p - q)

    Computed in float64, since its three terms cancel where p is near q, and returned in the input's
    dtype. Value: >= 0 (rounding below zero is cut off). Gradient with respect to p: f'(p) - f'(q).

    Example:
        >>> import torch
        >>> from mirrorpo.divergence.potentials import Square
        >>> integrand(Square(factor=1.0), torch.tensor(0.5).log(), torch.tensor(0.25).log())
        tensor(0.0625)
    """
    p = log_p.double().clamp(min=LOG_FLOOR).exp()
    q = log_q.detach().double().clamp(min=LOG_FLOOR).exp()
    return (potential.f(p) - potential.f(q) - potential.df(q) * (p - q)).clamp(min=0).to(log_p.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactBregman:
    """The Bregman divergence itself, summed over the vocabulary.

        D_t = sum_v f(p_v) - f(q_v) - f'(q_v)(p_v - q_v),   p = pi_theta(.|s_t), q = anchor(.|s_t)

    Value: >= 0, and zero only at p = q. Gradient: that of D_t at the visited state s_t; how the
    policy's tokens lead to other states is not differentiated, as in every per-token penalty.

    Attributes:
        potential: f and f'.
        beta: coefficient in the loss.
        anchor: which policy q is.

    References:
        Yuan et al. 2026 (GBMPO), the objective's D_phi, https://arxiv.org/abs/2602.04380
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "vocabulary"

    potential: Potential
    beta: float
    anchor: Literal["reference", "old"]

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return integrand(self.potential, policy, anchor).sum(dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledBregman:
    """One term of the Bregman divergence, at the sampled token y_t.

        d_t = f(p) - f(q) - f'(q)(p - q),   p = pi_theta(y_t), q = anchor(y_t)

    Value: >= 0; on-policy its expectation is sum_v p_v d(p_v, q_v), not the divergence
    sum_v d(p_v, q_v). Gradient: pathwise, (f'(p) - f'(q)) grad p at the sampled token; on-policy its
    expectation is sum_v p_v (f'(p_v) - f'(q_v)) grad p_v, which is neither the divergence's nor that
    of its own expected value (the score term is left out).

    Attributes:
        potential: f and f'.
        beta: coefficient in the loss.
        anchor: which policy q is.

    References:
        The reading of GBMPO (Yuan et al. 2026, https://arxiv.org/abs/2602.04380) in its public code
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    potential: Potential
    beta: float
    anchor: Literal["reference", "old"]

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return integrand(self.potential, policy, anchor)
