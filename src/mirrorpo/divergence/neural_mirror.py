"""The neural mirror map of GBMPO: a hidden layer of 126 increasing units as f', its primitive as f, and where
its 380 numbers come from.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from mirrorpo.core.seeds import generator
from mirrorpo.divergence.map_file import map_file

OF_A_KIND = 21
UNITS = 6 * OF_A_KIND
COUNT = 3 * UNITS + 2
SHIFT = 1e-3  # inside the logarithm of the log units


class Primitive(torch.autograd.Function):
    """value(p) with the gradient slope(p), which the caller knows in closed form.

    Autograd through the primitives would meet 0/0 where a unit's argument is zero, and keep an
    intermediate result for every unit; here only p is kept. Where slope is differentiable, so is the
    gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(p)
        ctx.slope = slope
        return value(p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (p,) = ctx.saved_tensors
        return gradient * ctx.slope(p), None, None


def with_derivative(
    p: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
) -> Tensor:
    """value(p), whose gradient is slope(p)."""
    return cast("Tensor", Primitive.apply(p, value, slope))  # pyright: ignore[reportUnknownMemberType]


# ---------------------------------------------------------------- the 380 numbers


@runtime_checkable
class Parameters(Protocol):
    """Where a mirror map's numbers come from: v (126), w (126), b (126), a, c; and if they are signed."""

    @property
    def values(self) -> Tensor: ...

    @property
    def signed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class GivenParameters:
    """Numbers as they are, such as those of a search's mean."""

    values: Tensor

    @property
    def signed(self) -> bool:
        """Not said to be."""
        return False


@dataclass(frozen=True, kw_only=True)
class RandomParameters:
    """380 numbers drawn once: a mirror map that is random and then fixed.

    U(0, scale), which makes a convex potential; with `signed` N(0, scale^2), the start of the public code's
    evolution search, which need not make one. One draw from the stream "mirror_map", in the order v, w, b, a,
    c; the global generators are not touched.

    Attributes:
        seed: the map's own, not the run's: the runs of a cell differ in their seed and share one map.
        scale: upper end of the uniform numbers, or the normal ones' standard deviation, > 0.
        signed: whether numbers may be negative.

    Raises:
        ValueError: for a scale that is not positive.

    Example:
        >>> values = RandomParameters(seed=42, scale=0.01, signed=False).values
        >>> len(values), bool(values.min() >= 0), bool(values.max() < 0.01)
        (380, True, True)

    References:
        The public code of GBMPO, Yuan et al. 2026, https://arxiv.org/abs/2602.04380: scale 0.01, seed 42
    """

    seed: int
    scale: float
    signed: bool

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(
                f"divergence.potential.parameters.scale={self.scale}: give a positive scale; the public "
                f"code's is 0.01"
            )

    @cached_property
    def values(self) -> Tensor:
        """The numbers, [380] in float64."""
        draw = torch.randn if self.signed else torch.rand
        return self.scale * draw(COUNT, dtype=torch.float64, generator=generator(self.seed, "mirror_map"))


@dataclass(frozen=True, kw_only=True)
class ParametersFile:
    """380 numbers from a JSON file: a mirror map that was learned.

    The file holds one list, in the order v (126), w (126), b (126), a, c. It is read when the object is
    built.

    Attributes:
        path: the file, or `mirrorpo:<name>` for one of `divergence/maps`, which ship with the package.
        signed: whether negative numbers are taken; the potential is then not known to be convex.

    Raises:
        ValueError: if the file cannot be read, is no list of 380 finite numbers, or has negative ones without
            `signed`.

    Example:
        >>> float(ParametersFile(path="mirrorpo:negative_entropy", signed=False).values.sum())
        1.0
    """

    path: str
    signed: bool

    def __post_init__(self) -> None:
        if self.signed or bool((self.values >= 0).all()):
            return
        first = int((self.values < 0).nonzero()[0])
        raise self._error(
            f"{int((self.values < 0).sum())} of its numbers are negative, the first "
            f"{float(self.values[first])} at index {first}, so its potential need not be convex; clip them "
            "at 0, or set divergence.potential.parameters.signed=true for what is then no divergence"
        )

    @cached_property
    def values(self) -> Tensor:
        """The numbers, [380] in float64."""
        try:
            # A whole number too long for a float becomes inf, which is refused below.
            content: object = json.loads(map_file(self.path).read_text(encoding="utf-8"), parse_int=float)
        except OSError as error:
            raise self._error(
                f"cannot be read ({error.strerror}); give a JSON file with a list of {COUNT} numbers"
            ) from error
        except ValueError as error:
            raise self._error(f"is not JSON ({error}); give a file with a list of {COUNT} numbers") from error
        if not isinstance(content, list):
            raise self._wrong_content(f"a {type(content).__name__}")
        numbers = cast("list[object]", content)
        if len(numbers) != COUNT:
            raise self._wrong_content(f"a list of {len(numbers)}")
        invalid = [
            index
            for index, number in enumerate(numbers)
            if not (isinstance(number, float) and math.isfinite(number))
        ]
        if invalid:
            raise self._error(f"has {numbers[invalid[0]]!r} at index {invalid[0]}; give finite numbers")
        return torch.tensor(numbers, dtype=torch.float64)

    def _wrong_content(self, content: str) -> ValueError:
        return self._error(
            f"holds {content}; give a list of {COUNT} numbers: v (126), w (126), b (126), a, c"
        )

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"divergence.potential.parameters.path={self.path}: {reason}")


# ---------------------------------------------------------------- the map


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuralMirror:
    """The potential whose mirror map is one hidden layer of 126 increasing units.

        f(y)  = sum_j v_j H_j(y) + a y^2 / 2 + c (y log y - y),   H_j'(y) = s_j(w_j y + b_j)
        f'(y) = sum_j v_j s_j(w_j y + b_j) + a y + c log y

    with 21 units of each kind, in this order, u = w y + b and u_+ = max(u, 0):

        u^3,  u^2,  u_+^(1/2),  u_+^(1/3),  log(u_+ + 0.001),  exp(u)

    Each unit is taken less its value at y = 0, s_j(b_j), and H_j vanishes there: an affine part of f, which
    no Bregman divergence sees, so nothing cancels where w is small (w = 0 is a constant unit, and gives
    zero). Only a gives Square(a / 2), only c gives c times NegativeEntropy.

    Value: with all numbers >= 0 every unit rises, so f is convex and its Bregman divergence D >= 0. With
    signed numbers D may be negative: of 20 maps N(0, 0.01^2), 17 have a D < 0 at a pair from 0.01 to 0.99.
    Gradient: of f it is f'; f' has slope zero where a ramp's argument is exactly zero.

    Probabilities below 1e-10 count as that, as in the public code. For a signed map that code's D is another
    one, negative for all 20: its primitive of a log unit is constant where u < 0, its unit log 0.001 there.

    Attributes:
        parameters: where v, w, b, a, c come from.

    Example:
        >>> mirror = NeuralMirror(parameters=ParametersFile(path="mirrorpo:negative_entropy", signed=False))
        >>> mirror.df(torch.tensor([0.5, 1.0]))
        tensor([-0.6931,  0.0000])
        >>> mirror.fingerprint
        'd91d40b4d5478a0b'

    References:
        Yuan et al. 2026 (GBMPO), the neural mirror map and its public code, https://arxiv.org/abs/2602.04380
        Alfano et al. 2024, Learning mirror maps in policy mirror descent, the same map, https://arxiv.org/abs/2402.05187
    """

    log_floor: ClassVar[float] = math.log(1e-10)

    parameters: Parameters

    @property
    def convex(self) -> bool:
        """Whether f is known to be convex: whether no number may be negative."""
        return not self.parameters.signed

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the 380 float64 numbers, stored with a run."""
        return hashlib.sha256(self.parameters.values.numpy().tobytes()).hexdigest()[:16]

    def f(self, p: Tensor) -> Tensor:
        return with_derivative(p, self._f, self.df)

    def df(self, p: Tensor) -> Tensor:
        v, w, b, a, c = self._numbers(p)
        rises, _ = units(w * p[..., None, None], b)
        return (v * rises).sum(dim=(-2, -1)) + a * p + c * p.log()

    def _f(self, p: Tensor) -> Tensor:
        v, w, b, a, c = self._numbers(p)
        _, means = units(w * p[..., None, None], b)
        return p * ((v * means).sum(dim=(-2, -1)) + a * p / 2 + c * (p.log() - 1))

    def _numbers(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """v, w, b as [6 kinds, 21 units], and a, c, in p's type and on its device."""
        values = self.parameters.values.to(p)
        v, w, b = values[: 3 * UNITS].view(3, -1, OF_A_KIND)
        return v, w, b, values[-2], values[-1]


def units(x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Each unit's rise s(b + x) - s(b), and the mean of its rises on the way, 1/x int_0^x s(b + t) - s(b) dt.

    With x = w y the mean times y is the unit's primitive. Both are zero at x = 0.
    Shapes: x [..., 6, 21], b [6, 21], the results as x.
    """
    u = x + b
    top, bottom = u.clamp(min=0), b.clamp(min=0)
    ramps = torch.tensor([[kind in RAMPS] for kind in KINDS], device=x.device)
    # Away from the kink the ramp's step is x itself; top - bottom would lose the digits of a small one.
    straight = ~ramps | ((u >= 0) & (b >= 0))
    step, start = torch.where(straight, x, top - bottom), torch.where(ramps, bottom, b)
    kinds = [kind(step[..., index, :], start[index]) for index, kind in enumerate(KINDS)]
    rise, mean = (torch.stack(part, dim=-2) for part in zip(*kinds, strict=True))
    # Where the way ends below zero, the unit stays as it is at zero.
    return rise, over(step, x) * mean + over(torch.where(straight, 0.0, u - top), x) * rise


# Of one kind of unit: from its argument's start k and step t, the rise s(k + t) - s(k) and the mean of the
# rises on
# the way, in forms that subtract no two near numbers where t is small.


def cube(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = u^3."""
    return t * (3 * k**2 + 3 * k * t + t**2), t * (1.5 * k**2 + k * t + t**2 / 4)


def square(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = u^2."""
    return t * (2 * k + t), t * (k + t / 3)


def square_root(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = u^(1/2), u >= 0."""
    high, low = root(k + t, 1 / 2), root(k, 1 / 2)
    rise = over(t, high + low)
    return rise, rise * over(2 * high + low, 3 * (high + low))


def cube_root(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = u^(1/3), u >= 0."""
    high, low = root(k + t, 1 / 3), root(k, 1 / 3)
    total = high**2 + high * low + low**2
    rise = over(t, total)
    return rise, rise * over(3 * high**2 + 2 * high * low + low**2, 4 * total)


def logarithm(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = log(u + 0.001), u >= 0."""
    h = t / (k + SHIFT)
    rise = torch.log1p(h)
    return rise, over((1 + h) * rise - h, h)


def exponential(t: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """s(u) = exp(u)."""
    rise = torch.expm1(t)
    return k.exp() * rise, k.exp() * over(rise - t, t)


KINDS = (cube, square, square_root, cube_root, logarithm, exponential)
RAMPS = (square_root, cube_root, logarithm)


def root(x: Tensor, power: float) -> Tensor:
    """x^power for x >= 0, with slope zero at x = 0, where the true one is infinite."""
    above = x > 0
    return torch.where(above, torch.where(above, x, 1.0) ** power, 0.0)


def over(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and zero where y is."""
    zero = y == 0
    return (x / y.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)
