"""Pearson's chi-square divergence, an f-divergence that no separable potential gives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from mirrorpo.divergence.vocabulary import gradient_of_total, in_float64, total

# An anchor's probability below exp(-80) counts as that, as for the potentials whose derivative is a power of
# 1/p.
LOG_FLOOR = -80.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChiSquare:
    """Pearson's chi-square divergence, summed over the vocabulary.

        D_t = sum_v (p_v - q_v)^2 / q_v,   p = pi_theta(.|s_t), q = anchor(.|s_t)

    Value: >= 0; about 2 KL(p, q) where p is near q, and far above it where p has mass that q lacks.
    Gradient: sum_v 2 (p_v / q_v - 1) grad p_v, that of D_t at the visited state.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> ChiSquare()(p, q, p)
        tensor([0.3333])

    References:
        Pearson 1900; as an f-divergence, Csiszar 1967
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "vocabulary"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return total(self._term, self._slope, policy, anchor.detach())

    def gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor:
        """That of factors times divergences, to the policy's log-probabilities."""
        return gradient_of_total(self._slope, policy, anchor, factor)

    def _term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if not in_float64(log_p):
            q = log_q.clamp(min=LOG_FLOOR).exp_()
            return log_p.exp().sub_(q).square_().div_(q)
        q = log_q.double().clamp(min=LOG_FLOOR).exp()
        return (log_p.double().exp() - q).square() / q

    def _slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # d/dp of the term, times dp / d log p.
        if not in_float64(log_p):
            p, q = log_p.exp(), log_q.clamp(min=LOG_FLOOR).exp_()
            return (p - q).div_(q).mul_(p).mul_(2)
        p, q = log_p.double().exp(), log_q.double().clamp(min=LOG_FLOOR).exp()
        return (p / q - 1).mul_(2).mul_(p)
