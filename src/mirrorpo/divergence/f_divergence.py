"""f-divergences of a generator, read exactly or at the sampled token; and Renyi's, a function of one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mirrorpo.divergence.bregman import LEAST_DRAWN
from mirrorpo.divergence.generators import NO_FLOOR, Alpha, Generator
from mirrorpo.divergence.vocabulary import gradient_of_total, in_float64, total

Direction = Literal["reverse", "forward"]

# No value at a single token, nor its slope, is larger in size: a token of no probability under one of two
# policies must not make a loss infinite.
LARGEST_TERM = 1e36


def term(generator: Generator, direction: Direction, log_p: Tensor, log_q: Tensor) -> Tensor:
    """d(p, q), or with direction "forward" d(q, p); in float64 where sums over the vocabulary are."""
    first, second = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    if in_float64(log_p):
        first, second = first.double(), second.double()
    return generator.term(first, second)


def slope(generator: Generator, direction: Direction, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The derivative of `term` in log p; zero below the generator's floor."""
    if in_float64(log_p):
        log_p, log_q = log_p.double(), log_q.double()
    if direction == "reverse":
        rise = generator.slope(log_p, log_q)
    else:
        # By Euler's theorem a homogeneous term is the sum of its two slopes.
        rise = generator.term(log_q, log_p).sub_(generator.slope(log_q, log_p))
    if generator.log_floor == NO_FLOOR:
        return rise
    return rise.masked_fill_(log_p < generator.log_floor, 0.0)


def at_token(
    generator: Generator, direction: Direction, policy: Tensor, anchor: Tensor, drawn: Tensor | None
) -> Tensor:
    """One term over the probability that its token was drawn with, in the policy's type.

    Value: d(p, q) / exp(drawn), or d(p, q) / p without `drawn`. Gradient: pathwise, through p in every place
    where it stands; none to the anchor or to `drawn`. Value and gradient are computed in float64.

    Args:
        generator: of the term.
        direction: which of the two policies stands first.
        policy: log p at the token.
        anchor: log q there.
        drawn: the log-probability that the token was drawn with, a constant; None is log p itself.
    """

    def read(log_p: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = log_p.double(), anchor.detach().double()
        value = term(generator, direction, log_p, log_q)
        rise = slope(generator, direction, log_p, log_q)
        if drawn is None:
            rise = rise.sub(value).masked_fill_(log_p < LEAST_DRAWN, 0.0)
        log_drawn = (log_p if drawn is None else drawn.detach().double()).clamp(min=LEAST_DRAWN)
        inverse = torch.exp(-log_drawn)
        return value * inverse, rise * inverse

    return cast(Tensor, _AtToken.apply(policy, read))  # pyright: ignore[reportUnknownMemberType]


class _AtToken(torch.autograd.Function):
    """A number a token, with the derivative that `read` gives beside it."""

    @staticmethod
    def forward(ctx: Any, policy: Tensor, read: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        value, rise = (part.clamp_(-LARGEST_TERM, LARGEST_TERM).to(policy.dtype) for part in read(policy))
        ctx.save_for_backward(rise)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (rise,) = ctx.saved_tensors
        return gradient * rise, None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactFDivergence:
    """An f-divergence itself, summed over the vocabulary.

        D_t = sum_v q_v f(p_v / q_v),   p = pi_theta(.|s_t), q = anchor(.|s_t)

    With direction "forward" the anchor stands first: D_t = sum_v p_v f(q_v / p_v).

    Value: >= 0 in each term, and zero only at p = q. Gradient: that of D_t at the visited state s_t,
    sum_v f'(p_v / q_v) grad p_v, and "forward" sum_v (f(u_v) - u_v f'(u_v)) grad p_v with u = q / p.

    Attributes:
        generator: f.
        direction: which of the two stands first; the symmetric ones have one direction.

    References:
        Csiszar 1967; Ali and Silvey 1966, https://doi.org/10.1111/j.2517-6161.1966.tb00626.x
        In RL of language models: forward KL and Jensen-Shannon in DPH-RL, https://arxiv.org/abs/2509.07430
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary", "top"]] = "vocabulary"

    generator: Generator
    direction: Direction

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return total(self._term, self._slope, policy, anchor.detach())

    def gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor:
        """That of factors times divergences, to the policy's log-probabilities."""
        return gradient_of_total(self._slope, policy, anchor, factor)

    def _term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return term(self.generator, self.direction, log_p, log_q)

    def _slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return slope(self.generator, self.direction, log_p, log_q)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledFDivergence:
    """One term of an f-divergence over the policy's probability of its token, a function of p / q.

        d_t / p,   d_t = q f(p / q),   p = pi_theta(y_t), q = anchor(y_t)

    "forward" has d_t = p f(q / p). For f(u) = u log u - u + 1, whose divergence is KL, this is k3.

    Value: >= 0, and on-policy its expectation is the divergence sum_v d_v. Gradient: pathwise,
    (d' - d / p) grad log p with d' the derivative of d in p; on-policy its expectation is
    sum_v (d'_v - d_v / p_v) grad p_v, another divergence's than sum_v d'_v grad p_v (the score term is left
    out).

    Attributes:
        generator: f.
        direction: which of the two stands first.

    References:
        As k3, Schulman 2020, http://joschu.net/blog/kl-approx.html
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary", "top"]] = "sampled"

    generator: Generator
    direction: Direction

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return at_token(self.generator, self.direction, policy, anchor, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectedFDivergence:
    """One term of an f-divergence over the probability with which its token was drawn.

        d_t / pi_old(y_t),   d_t = q f(p / q),   p = pi_theta(y_t), q = anchor(y_t)

    "forward" has d_t = p f(q / p).

    Value: >= 0; for y_t drawn from pi_old its expectation is the divergence sum_v d_v, on- and off-policy.
    Gradient: pathwise, and its expectation is the divergence's gradient, on- and off-policy: pi_old does not
    depend on theta.

    Attributes:
        generator: f.
        direction: which of the two stands first.

    References:
        Importance sampling, as `bregman.CorrectedBregman`
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary", "top"]] = "sampled"

    generator: Generator
    direction: Direction

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return at_token(self.generator, self.direction, policy, anchor, old)


# What p and q have in common below which Renyi's divergence goes on as its tangent.
LEAST_OVERLAP = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Renyi:
    """Renyi's divergence of order alpha, summed over the vocabulary.

        R_t = log( sum_v p_v^alpha q_v^(1 - alpha) ) / (alpha - 1)

    A monotone function of the alpha divergence D, log(1 + alpha (alpha - 1) D) / (alpha - 1), and no
    f-divergence. There is no sampled form: one that reads the drawn token alone has the expectation
    sum_v old_v g(p_v, q_v, old_v), a sum of terms of one token each, and the logarithm of a sum is none; the
    logarithm of an unbiased estimate of the sum is biased, by Jensen's inequality.

    Value: >= 0, and zero only at p = q; KL(p, q) as alpha -> 1. Gradient: alpha / (1 + alpha (alpha - 1) D)
    times D's. Where p and q hardly overlap, with the sum below 1e-4, it goes on as its tangent in D.

    Attributes:
        alpha: the order, > 0 and not 1.
        direction: "reverse" is R(p, q), "forward" R(q, p).

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> Renyi(alpha=2.0, direction="reverse")(p, q, p)
        tensor([0.2877])

    References:
        Renyi 1961; van Erven and Harremoes 2014, https://arxiv.org/abs/1206.2459
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary", "top"]] = "vocabulary"

    alpha: float
    direction: Direction

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 80 or self.alpha == 1:
            raise ValueError(
                f"divergence.alpha={self.alpha}: Renyi's order is above 0 and not 1, which is "
                "divergence=kl_exact"
            )

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        rise = self.alpha * (self.alpha - 1)
        change = rise * self._alpha(policy, anchor, old)
        near = change.clamp(min=LEAST_OVERLAP - 1)
        beyond = (change - (LEAST_OVERLAP - 1)).clamp(max=0)
        return (near.log1p() + beyond / LEAST_OVERLAP) / (self.alpha - 1)

    def gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor:
        """That of factors times divergences, to the policy's log-probabilities."""
        rise = self.alpha * (self.alpha - 1)
        with torch.no_grad():
            overlap = (1 + rise * self._alpha(policy, anchor, policy)).clamp(min=LEAST_OVERLAP)
        return self._alpha.gradient(policy, anchor, factor * self.alpha / overlap)

    @property
    def _alpha(self) -> ExactFDivergence:
        return ExactFDivergence(generator=Alpha(alpha=self.alpha), direction=self.direction)
