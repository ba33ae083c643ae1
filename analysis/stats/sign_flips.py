"""The exact test of paired differences that come in few values, such as steps of a grid of evaluations."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.intervals import LEVEL, Interval
from analysis.stats.rounding import settled

# All flips of so many differences are enumerated; of more that are not all equal the t test is close enough.
MOST_FLIPPED = 16


def tied(differences: ArrayLike) -> bool:
    """Whether at most half as many values as differences occur, so that their spread is not known.

    Example:
        >>> tied([20.0, 20.0]), tied([20.0, 0.0, 20.0, 20.0]), tied([20.0, 10.0, 0.0, 20.0])
        (True, True, False)
    """
    values = settled(differences)
    different = len(np.unique(values))
    return different <= len(values) // 2 and (different == 1 or len(values) <= MOST_FLIPPED)


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided exact p-value of no difference: the share of all sign flips with as large a sum.

        p = #{f in {-1, 1}^n: |sum f_i d_i| >= |sum d_i|} / 2^n

    Differences and sums that are equal up to rounding are equal.

    Example:
        >>> sign_flip_p([20.0, 20.0]), sign_flip_p([1.0] * 6), sign_flip_p([0.0, 0.0])
        (0.5, 0.03125, 1.0)

    References:
        Fisher 1935, The Design of Experiments, section 21
    """
    values = settled(differences)
    if np.ptp(values) == 0:
        return min(1.0, 2.0 ** (1 - len(values))) if values[0] else 1.0
    # The first row flips none.
    sums = settled(np.abs(_signs(len(values)) @ values))
    return float(np.mean(sums >= sums[0]))


def _signs(n: int) -> NDArray[np.float64]:
    """All 2^n rows of n signs."""
    return 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def fewest_to_flip(level: float = LEVEL) -> int:
    """The fewest differences of which a sign-flip test can be below the level.

    Example:
        >>> fewest_to_flip()
        6
    """
    return math.floor(math.log2(2 / (1 - level))) + 1


def sign_flip_interval(differences: ArrayLike, level: float = LEVEL) -> Interval:
    """The interval that fits the test: between quantiles of the means of all subsets.

    Without bounds where the test cannot be below the level, or all differences are equal.

    References:
        Hartigan 1969, Using subsample values as typical values
    """
    values = settled(differences)
    mean, n = float(values.mean()), len(values)
    cut = math.floor((1 - level) / 2 * 2**n)
    if not cut or np.ptp(values) == 0:
        return Interval(mean, float("-inf"), float("inf"))
    subsets = (_signs(n) < 0)[1:]
    means = np.sort(subsets @ values / subsets.sum(axis=1))
    return Interval(mean, float(means[cut - 1]), float(means[-cut]))
