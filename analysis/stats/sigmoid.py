"""A saturating curve of a pass rate against compute."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

# Beyond so many times the compute that was spent a midpoint is not known.
FARTHEST = 10.0


class Sigmoid(NamedTuple):
    """R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B), fitted to one run.

    Attributes:
        start: R_0, the value before any compute.
        asymptote: A.
        exponent: B, how steep it is.
        midpoint: C_mid, where half of the rise is done.
        residual: root mean square of what is left.
        reached: share of the rise that the last value has.
    """

    start: float
    asymptote: float
    exponent: float
    midpoint: float
    residual: float
    reached: float


def curve(
    compute: NDArray[np.float64], start: float, asymptote: float, exponent: float, midpoint: float
) -> NDArray[np.float64]:
    """R at some compute above 0."""
    return start + (asymptote - start) / (1 + (midpoint / compute) ** exponent)


def fit_sigmoid(compute: ArrayLike, values: ArrayLike) -> Sigmoid | None:
    """The least-squares curve of one run; None where nothing rises or it cannot be told from a line.

    Args:
        compute: spent at each evaluation, the first 0.
        values: shares, one an evaluation; the first is R_0.

    References:
        Khatri et al. 2025, The Art of Scaling Reinforcement Learning Compute for LLMs,
        https://arxiv.org/abs/2510.13786
    """
    x, y = np.asarray(compute, dtype=float), np.asarray(values, dtype=float)
    start, most = float(y[0]), float(x[-1])
    rest, shares = y[1:], x[1:] / most
    if rest.max() <= start:
        return None

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        return curve(shares, start, *parameters) - rest

    lows, highs = [start, 0.2, 1e-3], [1.0, 10.0, FARTHEST]
    fits = [
        optimize.least_squares(
            residuals, (min(1.0, float(rest.max()) + 0.01), steep, middle), bounds=(lows, highs)
        )
        for steep in (1.0, 3.0)
        for middle in (0.1, 0.5)
    ]
    best = min(fits, key=lambda fit: fit.cost)
    asymptote, exponent, middle = (float(value) for value in best.x)
    rise = asymptote - start
    if rise <= 0 or middle >= 0.999 * FARTHEST:
        return None
    residual = float(np.sqrt(np.mean(best.fun**2)))
    last = float(curve(np.ones(1), start, asymptote, exponent, middle)[0])
    return Sigmoid(start, asymptote, exponent, middle * most, residual, (last - start) / rise)
