"""Power of paired t tests, of a difference and of equality within a margin, and the seeds that they take."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import ndtr

from analysis.stats.distributions import chi_square_quantile, student_quantile
from analysis.stats.intervals import LEVEL

POWER = 0.8
MOST_SEEDS = 1000


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
    critical, shift = student_quantile((1 + level) / 2, n - 1), effect * math.sqrt(n)
    s, weights = _spreads(n)
    return float(weights @ (ndtr(shift - critical * s) + ndtr(-shift - critical * s)))


def equality_power(effect: float, margin: float, n: int, level: float = LEVEL) -> float:
    """Chance that the interval of a paired t test over n seeds lies within a margin of zero.

        P(|mean| + c s / sqrt(n) < margin),  c = t_{n-1, (1 + level)/2}

    Effect and margin are in standard deviations of a seed's difference.

    References:
        Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, two one-sided tests
    """
    if n < 2:
        return 0.0
    s, weights = _spreads(n)
    room = margin * math.sqrt(n) - student_quantile((1 + level) / 2, n - 1) * s
    shift = effect * math.sqrt(n)
    return float(weights @ np.where(room > 0, ndtr(room - shift) - ndtr(-room - shift), 0.0))


@cache
def _spreads(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes of s / sigma over n seeds, s^2 ~ chi^2_{n-1} / (n - 1), and their weights."""
    nodes, weights = _legendre()
    return np.sqrt(chi_square_quantile((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


@cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(400)


def seeds_needed(effect: float, target: float = POWER, level: float = LEVEL) -> int | None:
    """The fewest seeds with which a paired t test finds the effect with that power; None above 1,000.

    Example:
        >>> seeds_needed(0.5), seeds_needed(1.0), seeds_needed(0.0)
        (34, 10, None)
    """
    if not effect or math.isnan(effect):
        return None
    if math.isinf(effect):
        return 2
    return _fewest(lambda n: power(effect, n, level) >= target, 2)


def _fewest(enough: Callable[[int], bool], low: int) -> int | None:
    """The fewest seeds from some number on that are enough, where more never do less; None above 1,000."""
    high = low
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high + 1, min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def deciding_seeds(
    mean: float, seed_variance: float, question_variance: float, *, n: int, margin: float | None, level: float
) -> float:
    """The fewest seeds with which a difference as seen is told from zero, or shown to be within the margin.

    Args:
        mean: the difference.
        seed_variance: of one seed's difference.
        question_variance: the part of the mean's variance that stays with any number of seeds.
        n: seeds that there are; the answer is above.
        margin: of equality; None where there is none.
        level: of the interval.

    Returns:
        Seeds; infinity where no number of them is enough, only more questions; NaN above 1,000.
    """

    def enough(seeds: int, seed_variance: float = seed_variance) -> bool:
        spread = math.sqrt(seed_variance + seeds * question_variance)
        if not spread:
            return True
        tells = power(mean / spread, seeds, level) >= POWER
        return tells or (
            margin is not None and equality_power(mean / spread, margin / spread, seeds, level) >= POWER
        )

    fewest = _fewest(enough, n + 1)
    if fewest is not None:
        return fewest
    return float("nan") if enough(MOST_SEEDS, 0.0) else float("inf")


def rounded_seeds(seeds: float | None) -> str:
    """A number of seeds rounded up to two digits: the spread over few seeds does not tell more.

    Example:
        >>> rounded_seeds(7), rounded_seeds(137), rounded_seeds(None)
        ('7', '140', 'over 1,000')
    """
    if seeds is None or not seeds <= MOST_SEEDS:
        return f"over {MOST_SEEDS:,}"
    unit = 10 ** max(0, len(str(int(seeds))) - 2)
    return f"{math.ceil(seeds / unit) * unit:,}"


def detectable(n: int, target: float = POWER, level: float = LEVEL) -> float:
    """The effect, in standard deviations of a seed's difference, that n seeds find with that power."""
    if n < 2:
        return float("inf")
    effect = optimize.brentq(lambda effect: power(effect, n, level) - target, 1e-6, 1e3)
    return float(np.asarray(effect))
