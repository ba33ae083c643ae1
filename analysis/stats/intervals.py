"""Estimates and Student's, chi-square and F intervals around them.

Convention of score matrices in this package: one row a run (seed), one column a task or a question.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from analysis.stats.distributions import chi_square_quantile, f_quantile, student_quantile
from analysis.stats.rounding import settled

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def within(self, low: float = 0.0, high: float = float("inf")) -> "Interval":
        """The interval cut to the values that there can be; one without bounds stays so."""
        if self.low == float("-inf"):
            return self
        return Interval(self.estimate, max(self.low, low), min(self.high, high))

    def scaled(self, factor: float) -> "Interval":
        """All three numbers times a positive factor, such as 100 for percent."""
        return Interval(*(factor * value for value in self))


def mean_interval(values: Sequence[float] | NDArray[np.float64], level: float = LEVEL) -> Interval:
    """The mean of independent values with Student's interval; of one value, without bounds.

        mean +- t_{n-1, (1 + level)/2} s / sqrt(n)

    Example:
        >>> print(mean_interval([1.0, 2.0, 3.0]))
        2.00 [-0.48, 4.48]

    References:
        Student 1908, The probable error of a mean
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, float("-inf"), float("inf"))
    half = float(student_quantile((1 + level) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Interval(mean, mean - half, mean + half)


def wilson_interval(share: float, n: float, level: float = LEVEL) -> Interval:
    """A share of n independent answers with Wilson's interval, which has a width at 0 and 1 too.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Example:
        >>> print(wilson_interval(1.0, 100).scaled(100))
        100.00 [96.30, 100.00]

    References:
        Wilson 1927, J. Amer. Statist. Assoc. 22
    """
    z = float(ndtri((1 + level) / 2))
    middle, stretch = (share + z**2 / (2 * n)) / (1 + z**2 / n), 1 + z**2 / n
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / stretch
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def share_interval(
    values: Sequence[float] | NDArray[np.float64], answers: float | None = None, level: float = LEVEL
) -> Interval:
    """The mean of shares, one a seed, with Student's interval; seeds that agree do not make it certain.

    Args:
        values: at least one share.
        answers: how many answers a share is of. Where all shares are equal the interval is Wilson's of so
            many, and has no bounds where nobody knows.
        level: of the interval.
    """
    if len(values) < 2 or np.ptp(settled(values)) > 0:
        return mean_interval(values, level).within(0, 1)
    mean = float(np.mean(values))
    return wilson_interval(mean, answers, level) if answers else Interval(mean, float("-inf"), float("inf"))


def spread_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Standard deviation (ddof 1) of independent normal values with its chi-square interval.

        (n - 1) s^2 / sigma^2 ~ chi^2_{n-1}

    With five seeds it reaches from 0.6 to 2.9 times the estimate: a spread is known far less well than a
    mean.

    Example:
        >>> print(spread_interval([1.0, 2.0, 3.0, 4.0, 5.0]))
        1.58 [0.95, 4.54]
    """
    n, s = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    if n < 2:
        return Interval(s, 0.0, float("inf"))
    low, high = (float(chi_square_quantile(q, n - 1)) for q in ((1 + level) / 2, (1 - level) / 2))
    return Interval(s, s * ((n - 1) / low) ** 0.5, s * ((n - 1) / high) ** 0.5)


def spread_ratio(ours: Sequence[float], base: Sequence[float], level: float = LEVEL) -> Interval:
    """Ratio of two standard deviations with the F interval of independent normal samples.

    s_1^2 / s_2^2 / (sigma_1^2 / sigma_2^2) ~ F_{n_1 - 1, n_2 - 1}
    """
    n, m = len(ours), len(base)
    if n < 2 or m < 2 or np.ptp(settled(base)) == 0:
        return Interval(float("nan"), 0.0, float("inf"))
    ratio = float(np.var(ours, ddof=1) / np.var(base, ddof=1))
    low, high = (f_quantile(q, n - 1, m - 1) for q in ((1 + level) / 2, (1 - level) / 2))
    return Interval(ratio**0.5, (ratio / low) ** 0.5, (ratio / high) ** 0.5)


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half of all scores.

    A quarter is cut from each end, rounded down to whole scores, as rliable and scipy do.

    Example:
        >>> iqm([0.0, 1.0, 2.0, 99.0])
        1.5

    References:
        Agarwal et al. 2021, section 4.3, https://arxiv.org/abs/2108.13264
    """
    ordered = np.sort(np.asarray(scores, dtype=float), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def percentile(values: ArrayLike, estimate: float, level: float = LEVEL) -> Interval:
    """The percentile interval of bootstrap draws, without those where the statistic is not defined."""
    low, high = np.nanquantile(np.asarray(values, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def pass_at_k(right: ArrayLike, samples: int, k: int) -> float:
    """Probability that one of k samples is right, unbiased, mean over questions.

        mean_q 1 - C(n - c_q, k) / C(n, k)  =  1 - prod_{i=n-c+1}^{n} (1 - k / i)

    Raises:
        ValueError: if k is above the number of samples; the plug-in 1 - (1 - c/n)^k is biased and not
            offered.

    Example:
        >>> pass_at_k([1], 4, 1), pass_at_k([1], 4, 4), pass_at_k([0, 4], 4, 2)
        (0.25, 1.0, 0.5)

    References:
        Chen et al. 2021 (Codex), section 2.1, https://arxiv.org/abs/2107.03374
    """
    if not 1 <= k <= samples:
        raise ValueError(
            f"k={k} with {samples} samples a question: pass@k needs 1 <= k <= samples; evaluate with "
            f"eval_samples={k} or more"
        )
    counts = np.atleast_1d(np.asarray(right, dtype=int))
    misses = [
        np.prod(1 - k / np.arange(samples - c + 1, samples + 1)) if samples - c >= k else 0.0 for c in counts
    ]
    return float(1 - np.mean(misses))


def pass_at_k_by_question(right: ArrayLike, samples: ArrayLike, k: int) -> NDArray[np.float64]:
    """The chance of each question that one of k of its samples is right, unbiased; NaN where there are fewer.

        1 - C(n_q - c_q, k) / C(n_q, k)

    Args:
        right: how many samples of each question are right; NaN where it was not sampled. The chance is NaN
            too where more are right than there are.
        samples: how many there are.
        k: of how many one has to be right.

    Example:
        >>> pass_at_k_by_question([1, 4, 0], [4, 4, 1], 2)
        array([0.5, 1. , nan])
    """
    counts, sizes = (np.asarray(values, dtype=float) for values in (right, samples))
    out = np.full(counts.shape, np.nan)
    for n, c in {(n, c) for n, c in zip(sizes, counts, strict=True) if n >= k and 0 <= c <= n}:
        chance = 1 - math.comb(int(n - c), k) / math.comb(int(n), k)
        out[(sizes == n) & (counts == c)] = chance
    return out


def coverage_at_k_by_question(
    counts: Sequence[Sequence[int] | None], samples: ArrayLike, k: int
) -> NDArray[np.float64]:
    """The expected share of each question's right answers among k of its samples, unbiased.

        1/m_q sum_a 1 - C(n_q - c_qa, k) / C(n_q, k)

    Args:
        counts: how many samples of each question give each of its m right answers, zeros included; None where
            they are not listed.
        samples: how many there are.
        k: how many are drawn.

    Returns:
        A share a question; NaN where there are fewer samples, or right answers are not listed.

    Example:
        >>> coverage_at_k_by_question([[1, 1, 0, 0], [2, 0], None], [2, 2, 2], 2)
        array([0.5, 0.5, nan])
    """
    sizes = np.asarray(samples, dtype=float)
    shares = [
        np.mean(pass_at_k_by_question(of_question, np.full(len(of_question), size), k))
        if of_question is not None and len(of_question)
        else np.nan
        for of_question, size in zip(counts, sizes, strict=True)
    ]
    return np.asarray(shares, dtype=float)
