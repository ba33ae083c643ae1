"""Intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

LEVEL = 0.95
Cluster = TypeVar("Cluster")


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values with Student's 95% interval; of one value, without bounds.

        mean +- t_{n-1, 0.975} s / sqrt(n)

    Example:
        >>> print(mean_interval([1.0, 2.0, 3.0]))
        2.00 [-0.48, 4.48]

    References:
        Student 1908, The probable error of a mean
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, float("-inf"), float("inf"))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Interval(mean, mean - half, mean + half)


def cluster_bootstrap(clusters: Sequence[Cluster], statistic: Callable[[Sequence[Cluster]], float], *, draws: int = 2000, seed: int = 0) -> Interval:
    """A statistic of clusters with the 95% percentile interval over whole clusters drawn again.

    What belongs together, such as the spans of one completion, is drawn together. Draws for which the
    statistic is not defined (NaN) are left out.

    References:
        Efron 1979, Bootstrap methods; Davison and Hinkley 1997, section 3.8, hierarchical data
    """
    rng = np.random.default_rng(seed)
    values = [statistic([clusters[i] for i in rng.integers(len(clusters), size=len(clusters))]) for _ in range(draws)]
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(statistic(clusters), float(low), float(high))
