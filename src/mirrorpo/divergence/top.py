"""Estimators between sampled and exact: the likeliest tokens summed, the others at the sampled token."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mirrorpo.core.protocols import ReadsTop
from mirrorpo.core.top import likeliest
from mirrorpo.divergence.bregman import ExactBregman, integrand, over_drawn
from mirrorpo.divergence.f_divergence import Direction, ExactFDivergence, at_token
from mirrorpo.divergence.generators import Generator
from mirrorpo.divergence.potentials import Potential

TopOf = Literal["anchor", "policy"]


def at_every_token(divergence: ReadsTop, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
    """The estimate for each token that may be drawn, [..., V], from tables over the vocabulary."""
    ids = likeliest(anchor if divergence.of == "anchor" else policy, divergence.k)
    inside = divergence.inside(policy.gather(-1, ids), anchor.gather(-1, ids))
    covered = torch.zeros_like(policy, dtype=torch.bool).scatter(-1, ids, True)
    return joined(inside[..., None], covered, divergence.outside(policy, anchor, old))


def joined(inside: Tensor, covered: Tensor, outside: Tensor) -> Tensor:
    """What is summed, and the drawn token's term where it is not among that."""
    return inside + outside.masked_fill(covered, 0.0)


def _checked(k: int) -> None:
    if k < 0:
        raise ValueError(f"divergence.k={k}: a number of tokens, 0 (as `_corrected`) or more")


class _Top(ABC):
    # The sum inside the set is that of the exact divergence; outside it each kind has a term of its own.
    __slots__ = ()

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary", "top"]] = "top"

    k: int
    of: TopOf

    def __post_init__(self) -> None:
        _checked(self.k)

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return at_every_token(self, policy, anchor, old)

    @abstractmethod
    def outside(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        """The sampled token's term over the probability it was drawn with."""

    def inside(self, policy: Tensor, anchor: Tensor) -> Tensor:
        """The sum of the terms of some tokens."""
        return self._exact(policy, anchor, policy)

    def inside_gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor:
        """That of factors times sums, to the policy's log-probabilities."""
        return self._exact.gradient(policy, anchor, factor)

    @property
    @abstractmethod
    def _exact(self) -> ExactBregman | ExactFDivergence: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TopBregman(_Top):
    """A Bregman divergence, summed over the k likeliest tokens, and at the sampled token if it is another.

        D_t = sum_{v in S} d_v + 1[y_t not in S] d_t / pi_old(y_t),   S the k likeliest tokens of q or p

    with d_v = f(p_v) - f(q_v) - f'(q_v)(p_v - q_v), or "forward" d of (q, p).

    Value: >= 0 for a convex potential; for y_t drawn from pi_old its expectation is the divergence sum_v d_v
    at any k, on- and off-policy. k = 0 is `CorrectedBregman`, k >= V `ExactBregman`. Its variance is that of
    the tokens outside S alone. Gradient: pathwise, with S a constant, and its expectation is the divergence's
    gradient at any k, on- and off-policy: neither S nor pi_old depends on y_t.

    Attributes:
        potential: f and f'.
        direction: which of the two stands first.
        k: the number of tokens that are summed.
        of: whose likeliest they are: "anchor", read once a rollout; "policy", whose own are read in each
            update, with the anchor's hidden states kept.

    References:
        The sum splits by the law of total expectation; ours
    """

    potential: Potential
    direction: Direction
    k: int
    of: TopOf

    def outside(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        """The sampled token's term over the probability it was drawn with."""
        first, second = (policy, anchor.detach())
        if self.direction == "forward":
            first, second = second, first
        return over_drawn(integrand(self.potential, first, second), old).to(policy.dtype)

    @property
    def _exact(self) -> ExactBregman:
        return ExactBregman(potential=self.potential, direction=self.direction)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopFDivergence(_Top):
    """An f-divergence, summed over the k likeliest tokens, and at the sampled token if it is another.

        D_t = sum_{v in S} d_v + 1[y_t not in S] d_t / pi_old(y_t),   S the k likeliest tokens of q or p

    with d_v = q_v f(p_v / q_v), or "forward" d of (q, p).

    Value: >= 0; for y_t drawn from pi_old its expectation is the divergence sum_v d_v at any k, on- and
    off-policy. k = 0 is `CorrectedFDivergence`, k >= V `ExactFDivergence`. Gradient: pathwise, with S a
    constant, and its expectation is the divergence's gradient at any k, on- and off-policy.

    Attributes:
        generator: f.
        direction: which of the two stands first.
        k: the number of tokens that are summed.
        of: whose likeliest they are, as in `TopBregman`.

    References:
        As `TopBregman`
    """

    generator: Generator
    direction: Direction
    k: int
    of: TopOf

    def outside(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        """The sampled token's term over the probability it was drawn with."""
        return at_token(self.generator, self.direction, policy, anchor, old)

    @property
    def _exact(self) -> ExactFDivergence:
        return ExactFDivergence(generator=self.generator, direction=self.direction)
