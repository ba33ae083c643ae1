"""A potential read from a table, for mirror maps too dear to evaluate at every token of a vocabulary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from mirrorpo.core.tensors import chunks
from mirrorpo.divergence.neural_mirror import NeuralMirror, Parameters, with_derivative
from mirrorpo.divergence.potentials import Potential

# Elements worked on at once on a CPU, so that temporary results stay in its cache.
PIECE = 131072


class LookupTable(NamedTuple):
    """Polynomials in t in [0, 1], a column for each interval, lowest power first; and one number for each.

    Attributes:
        mirror: P, which is f'.
        slope: its derivative in s = log p.
        primitive: Q.
        constant: C.
    """

    mirror: Tensor
    slope: Tensor
    primitive: Tensor
    constant: Tensor

    def to(self, device: torch.device) -> "LookupTable":
        """The same on a device."""
        return LookupTable(*(part.to(device) for part in self))


class TablePosition(NamedTuple):
    """Where probabilities stand in a table.

    Attributes:
        p: the probabilities.
        k: the interval of each.
        t: the place of each in its interval, in [0, 1].
    """

    p: Tensor
    k: Tensor
    t: Tensor


@dataclass(frozen=True, kw_only=True)
class Tabulated:
    """Another potential's mirror map, interpolated in log p; the table is itself a convex potential.

        f'(p) = P_k(t),   f(p) = p Q_k(t) + C_k,   Q = P - dP + ddP - dddP,   d = d/ds

    with s = log p in [log_floor, 0], k its interval between even knots and t its place in it. P_k is the
    cubic that has the potential's values and slopes at both ends; C_k makes f continuous. As d(e^s Q) = e^s
    P, f is the exact primitive of f': what a table gives is the Bregman divergence of the table, not an
    approximation of one.

    Value: its divergence is >= 0, since P rises, which is checked on every interval; f differs from the
    potential's by an affine part. Gradient: of f it is f', of f' it is dP / p. All in float64.
    Error: f' is off by at most h^4 / 384 times the largest fourth derivative in s of the potential's, h the
    distance of two knots. A random neural map's divergence, with 8192 knots, is off by less than 1e-9 of
    itself where log p and log q are 0.01 or more apart; nearer, rounding is larger than that, as for every
    potential.

    Attributes:
        potential: what is tabulated.
        knots: their number.

    Raises:
        ValueError: for fewer than two knots, or where the interpolated mirror map falls.

    Example:
        >>> from mirrorpo.divergence.potentials import Square
        >>> Tabulated(potential=Square(factor=0.5), knots=8192).df(torch.tensor(0.25))
        tensor(0.2500)

    References:
        Fritsch and Carlson 1980, Monotone piecewise cubic interpolation, https://doi.org/10.1137/0717021
    """

    convex: ClassVar[bool] = True

    potential: Potential
    knots: int

    def __post_init__(self) -> None:
        if self.knots < 2:
            raise ValueError(
                f"divergence.potential.knots={self.knots}: needs at least 2; the shipped files have 8192"
            )
        c0, c1, c2 = self._table.slope
        # A parabola is least at an end or where it turns.
        turn = torch.where(c2 > 0, -c1 / (2 * c2), 0.0).clamp(0, 1)
        least = torch.stack([c0, c0 + c1 + c2, c0 + turn * (c1 + turn * c2)]).min()
        if float(least) < -1e-12 * float(c0.abs().max()):
            raise ValueError(
                f"divergence.potential.knots={self.knots}: the interpolated mirror map falls somewhere, so "
                "the table is no convex potential; give more knots, or a potential that is convex (with "
                "signed parameters it need not be)"
            )

    @property
    def fingerprint(self) -> str | None:
        """That of the potential."""
        return self.potential.fingerprint

    @property
    def log_floor(self) -> float:
        """The potential's own."""
        return self.potential.log_floor

    def f(self, p: Tensor) -> Tensor:
        return with_derivative(p, self._f, self.df)

    def df(self, p: Tensor) -> Tensor:
        return with_derivative(p, self._df, self._ddf)

    def bregman(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """f(p) - f(q) - f'(q) (p - q) at every pair, in float64 and without gradient.

        What f and f' give one by one, in some 60% of their time: no logarithm, and each of p and q is placed
        once.
        """

        def formula(table: LookupTable, first: TablePosition, second: TablePosition) -> Tensor:
            steps = polynomial(table.mirror, second).mul_(first.p - second.p)
            return primitive(table, first).sub_(primitive(table, second)).sub_(steps).clamp_(min=0)

        return self._read_two(log_p, log_q, formula)

    def bregman_slope(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(f'(p) - f'(q)) p at every pair, the derivative of `bregman` in log p."""
        return self._read_two(
            log_p,
            log_q,
            lambda table, first, second: (
                polynomial(table.mirror, first).sub_(polynomial(table.mirror, second)).mul_(first.p)
            ),
        )

    def _f(self, p: Tensor) -> Tensor:
        return self._read(p, primitive)

    def _df(self, p: Tensor) -> Tensor:
        return self._read(p, lambda table, at: polynomial(table.mirror, at))

    def _ddf(self, p: Tensor) -> Tensor:
        return self._read(p, lambda table, at: polynomial(table.slope, at).div_(at.p))

    def _read(self, p: Tensor, formula: Callable[[LookupTable, TablePosition], Tensor]) -> Tensor:
        """The formula at every p, piece by piece."""
        table = self._table.to(p.device)
        flat = p.detach().double().reshape(-1)
        out = torch.empty_like(flat)
        for values, results in pieces(flat, out):
            results.copy_(formula(table, self._locate(values, values.log())))
        return out.view(p.shape).to(p.dtype)

    def _read_two(
        self,
        log_p: Tensor,
        log_q: Tensor,
        formula: Callable[[LookupTable, TablePosition, TablePosition], Tensor],
    ) -> Tensor:
        """The formula at every pair, piece by piece."""
        table = self._table.to(log_p.device)
        out = torch.empty(log_p.shape, dtype=torch.float64, device=log_p.device)
        for first, second, results in pieces(
            log_p.detach().reshape(-1), log_q.detach().reshape(-1), out.view(-1)
        ):
            logs = (part.double().clamp(min=self.log_floor) for part in (first, second))
            results.copy_(formula(table, *(self._locate(log.exp(), log) for log in logs)))
        return out

    def _locate(self, p: Tensor, log_p: Tensor) -> TablePosition:
        """Where p stands in the table; log_p is written over."""
        position = (
            log_p.sub_(self.log_floor).mul_((self.knots - 1) / -self.log_floor).clamp_(0, self.knots - 1)
        )
        k = position.int().clamp_(max=self.knots - 2)
        return TablePosition(p=p, k=k, t=position.sub_(k))

    @cached_property
    def _table(self) -> LookupTable:
        h = -self.log_floor / (self.knots - 1)
        with torch.enable_grad():
            p = torch.linspace(self.log_floor, 0.0, self.knots, dtype=torch.float64).exp().requires_grad_()
            value = self.potential.df(p)
            (slope,) = torch.autograd.grad(value.sum(), p)
        p, value = p.detach(), value.detach()
        rise, start, end = value.diff(), h * (p * slope)[:-1], h * (p * slope)[1:]
        mirror = torch.stack([value[:-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise])
        primitive, term = mirror.clone(), mirror
        for sign in (-1, 1, -1):
            term = derivative(term) / h
            primitive[: len(term)] += sign * term
        jumps = p[1:-1] * (primitive.sum(dim=0)[:-1] - primitive[0, 1:])
        constant = torch.cat([torch.zeros(1, dtype=torch.float64), jumps.cumsum(dim=0)])
        return LookupTable(
            mirror=mirror, slope=derivative(mirror) / h, primitive=primitive, constant=constant
        )


def derivative(coefficients: Tensor) -> Tensor:
    """Of polynomials, lowest power first."""
    return coefficients[1:] * torch.arange(1, len(coefficients), dtype=torch.float64)[:, None]


def polynomial(coefficients: Tensor, at: TablePosition) -> Tensor:
    """The polynomials at a place, by Horner's rule."""
    *lower, highest = coefficients.unbind()
    value = highest.index_select(0, at.k)
    # One for all rows: on a CPU, fresh memory costs more than the reading of it.
    power = torch.empty_like(value)
    for row in reversed(lower):
        value.mul_(at.t).add_(torch.index_select(row, 0, at.k, out=power))
    return value


def primitive(table: LookupTable, at: TablePosition) -> Tensor:
    """f at a place."""
    return polynomial(table.primitive, at).mul_(at.p).add_(table.constant.index_select(0, at.k))


def pieces(*flat: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one length in pieces; uncut where there is no CPU's cache to stay in."""
    size = PIECE if flat[0].device.type == "cpu" else max(len(flat[0]), 1)
    return zip(*(chunks(part, size) for part in flat), strict=True)


def tabulated_mirror(parameters: Parameters, knots: int) -> Tabulated:
    """A neural mirror map as a table, with its numbers where a search over maps sets them."""
    potential = cast("Potential", NeuralMirror(parameters=parameters))
    return Tabulated(potential=potential, knots=knots)
