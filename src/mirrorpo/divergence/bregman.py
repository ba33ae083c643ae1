"""Bregman divergences of a potential, read exactly or at the sampled token."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mirrorpo.divergence.potentials import ClosedForm, Potential, SumsItself
from mirrorpo.divergence.vocabulary import gradient_of_total, in_float64, total

LEAST_DRAWN = -80.0


def probability(potential: Potential, log_p: Tensor) -> Tensor:
    """p in float64, not below the potential's floor."""
    return log_p.double().clamp(min=potential.log_floor).exp()


def integrand(potential: Potential, log_p: Tensor, log_q: Tensor) -> Tensor:
    """One term of the divergence D(p, q) for each probability, in float64.

        d(p, q) = f(p) - f(q) - f'(q) (p - q)

    float64, since the three terms cancel where p is near q. Value: >= 0 for a convex potential, whose
    rounding below zero is cut off; of either sign for another. Gradient: f'(p) - f'(q) with respect to
    p, f''(q) (q - p) with respect to q.

    Example:
        >>> import torch
        >>> from mirrorpo.divergence.potentials import Square
        >>> integrand(Square(factor=1.0), torch.tensor(0.5).log(), torch.tensor(0.25).log()).float()
        tensor(0.0625)
    """
    p, q = probability(potential, log_p), probability(potential, log_q)
    gap = potential.f(p) - potential.f(q) - potential.df(q) * (p - q)
    return gap.clamp(min=0) if potential.convex else gap


def over_drawn(terms: Tensor, old: Tensor) -> Tensor:
    """Terms at sampled tokens over the probabilities that they were drawn with, whose logs are given."""
    # A token that was drawn has no smaller probability than this in float32 sampling.
    drawn = old.detach().double().clamp(min=LEAST_DRAWN)
    return terms * torch.exp(-drawn)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactBregman:
    """The Bregman divergence itself, summed over the vocabulary.

        D_t = sum_v f(p_v) - f(q_v) - f'(q_v)(p_v - q_v),   p = pi_theta(.|s_t), q = anchor(.|s_t)

    With direction "forward" the anchor stands first: D(q, p). For negative entropy, "reverse" is
    KL(pi_theta, anchor) and "forward" KL(anchor, pi_theta).

    Value: >= 0, and zero only at p = q, for a convex potential. Gradient: that of D_t at the visited
    state s_t, sum_v (f'(p_v) - f'(q_v)) grad p_v, and "forward" sum_v f''(p_v) (p_v - q_v) grad p_v; how
    the policy's tokens lead to other states is not differentiated, as in every per-token penalty.

    Attributes:
        potential: f and f'.
        direction: which of the two stands first.

    References:
        Yuan et al. 2026 (GBMPO), the objective's D_phi, https://arxiv.org/abs/2602.04380
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "vocabulary"

    potential: Potential
    direction: Literal["reverse", "forward"]

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return total(self._term, self._slope, policy, anchor.detach())

    def gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor:
        """That of factors times divergences, to the policy's log-probabilities."""
        return gradient_of_total(self._slope, policy, anchor, factor)

    def _term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        first, second = (log_p, log_q) if self.direction == "reverse" else (log_q, log_p)
        if isinstance(self.potential, ClosedForm) and not in_float64(log_p):
            return self.potential.closed(first, second)
        if isinstance(self.potential, SumsItself):
            return self.potential.bregman(first, second)
        return integrand(self.potential, first, second)

    def _slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # d/dp of the term, times dp / d log p.
        if isinstance(self.potential, ClosedForm) and not in_float64(log_p):
            if self.direction == "reverse":
                return self.potential.closed_slope(log_p, log_q)
            return self.potential.closed_slope_of_second(log_q, log_p)
        if isinstance(self.potential, SumsItself) and self.direction == "reverse":
            return self.potential.bregman_slope(log_p, log_q).masked_fill_(
                log_p < self.potential.log_floor, 0.0
            )
        p, q = probability(self.potential, log_p), probability(self.potential, log_q)
        if self.direction == "reverse":
            slope = self.potential.df(p) - self.potential.df(q)
        else:
            with torch.enable_grad():
                (curvature,) = torch.autograd.grad(self.potential.df(p.requires_grad_()).sum(), p)
            slope = curvature * (p - q)
        return slope.mul_(p).masked_fill_(log_p < self.potential.log_floor, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledBregman:
    """One term of the Bregman divergence, at the sampled token y_t.

        d_t = f(p) - f(q) - f'(q)(p - q),   p = pi_theta(y_t), q = anchor(y_t)

    Value: >= 0 for a convex potential; on-policy its expectation is sum_v p_v d(p_v, q_v), not the
    divergence sum_v d(p_v, q_v). Gradient: pathwise, (f'(p) - f'(q)) grad p at the sampled token; on-policy
    its expectation is sum_v p_v (f'(p_v) - f'(q_v)) grad p_v, which is neither the divergence's nor that
    of its own expected value (the score term is left out).

    Attributes:
        potential: f and f'.

    References:
        The reading of GBMPO (Yuan et al. 2026, https://arxiv.org/abs/2602.04380) in its public code
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    potential: Potential

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return integrand(self.potential, policy, anchor.detach()).to(policy.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectedBregman:
    """One term of the Bregman divergence over the probability with which its token was drawn.

        d_t / pi_old(y_t),   d_t = f(p) - f(q) - f'(q)(p - q),   p = pi_theta(y_t), q = anchor(y_t)

    For negative entropy this is k3 times the importance ratio, TRL's bias-corrected KL.

    Value: >= 0 for a convex potential; for y_t drawn from pi_old its expectation is the divergence sum_v d_v,
    on- and off-policy. Its variance grows with 1 / pi_old. Gradient: pathwise, and its expectation is the
    divergence's gradient, on- and off-policy: pi_old does not depend on theta.

    Attributes:
        potential: f and f'.

    References:
        Importance sampling; for KL, the reverse KL of Schulman 2020 times the ratio, http://joschu.net/blog/kl-approx.html
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    potential: Potential

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return over_drawn(integrand(self.potential, policy, anchor.detach()), old).to(policy.dtype)
