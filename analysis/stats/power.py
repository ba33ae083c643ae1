"""Power of a paired t test, and the seeds that it takes."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.stats.intervals import LEVEL

POWER = 0.8
MOST_SEEDS = 10_000


def power(effect: float, n: int, level: float = LEVEL) -> float:
    """Chance that a two-sided paired t test over n seeds finds an effect.

        T ~ noncentral t_{n-1}(effect sqrt(n));  P(|T| > c),  c = t_{n-1, (1 + level)/2}
          = E_s[Phi(effect sqrt(n) - c s) + Phi(-effect sqrt(n) - c s)],  s^2 ~ chi^2_{n-1} / (n - 1)

    The effect is in standard deviations of a seed's difference. Integrated over s: scipy's noncentral t
    has no value where the effect is large and the seeds are few.

    References:
        Cohen 1988, Statistical Power Analysis, section 2
    """
    if n < 2:
        return 0.0
    critical, shift = float(stats.t.ppf((1 + level) / 2, n - 1)), effect * math.sqrt(n)
    nodes, weights = _legendre()
    s = np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1))
    return float(weights / 2 @ (stats.norm.cdf(shift - critical * s) + stats.norm.cdf(-shift - critical * s)))


@cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(400)


def seeds_needed(effect: float, target: float = POWER, level: float = LEVEL) -> int | None:
    """The fewest seeds with which a paired t test finds the effect with that power; None above 10,000.

    Example:
        >>> seeds_needed(0.5), seeds_needed(1.0), seeds_needed(0.0)
        (34, 10, None)
    """
    if not effect or math.isnan(effect):
        return None
    if math.isinf(effect):
        return 2
    guess = ((stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(target)) / effect) ** 2
    if guess > MOST_SEEDS:
        return None
    n = max(2, int(guess))
    while n > 2 and power(effect, n - 1, level) >= target:
        n -= 1
    while power(effect, n, level) < target:
        n += 1
    return n


def detectable(n: int, target: float = POWER, level: float = LEVEL) -> float:
    """The effect, in standard deviations of a seed's difference, that n seeds find with that power."""
    if n < 2:
        return float("inf")
    effect = optimize.brentq(lambda effect: power(effect, n, level) - target, 1e-6, 1e3)
    return float(np.asarray(effect))
