"""Estimates and intervals: over seeds, over questions, over both.

Convention of score matrices: one row a run (seed), one column a task or a question.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
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

    def within(self, low: float = 0.0, high: float = float("inf")) -> "Interval":
        """The interval cut to the values that there can be, such as 0 to 1 for a share; one without bounds
        stays so.
        """
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
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Interval(mean, mean - half, mean + half)


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
    low, high = (float(stats.chi2.ppf(q, n - 1)) for q in ((1 + level) / 2, (1 - level) / 2))
    return Interval(s, s * ((n - 1) / low) ** 0.5, s * ((n - 1) / high) ** 0.5)


def spread_ratio(ours: Sequence[float], base: Sequence[float], level: float = LEVEL) -> Interval:
    """Ratio of two standard deviations with the F interval of independent normal samples.

    s_1^2 / s_2^2 / (sigma_1^2 / sigma_2^2) ~ F_{n_1 - 1, n_2 - 1}
    """
    n, m = len(ours), len(base)
    if n < 2 or m < 2 or np.std(base) == 0:
        return Interval(float("nan"), 0.0, float("inf"))
    ratio = float(np.var(ours, ddof=1) / np.var(base, ddof=1))
    low, high = (float(stats.f.ppf(q, n - 1, m - 1)) for q in ((1 + level) / 2, (1 - level) / 2))
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
    """The percentile interval of bootstrap draws; draws for which the statistic is not defined are left out."""
    low, high = np.nanquantile(np.asarray(values, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def cluster_bootstrap(
    clusters: Sequence[Cluster],
    statistic: Callable[[Sequence[Cluster]], float],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of clusters with the 95% percentile interval over whole clusters drawn again.

    What belongs together, such as the spans of one completion, is drawn together. Draws for which the
    statistic is not defined (NaN) are left out.

    References:
        Efron 1979, Bootstrap methods; Davison and Hinkley 1997, section 3.8, hierarchical data
    """
    rng = np.random.default_rng(seed)
    values = [
        statistic([clusters[i] for i in rng.integers(len(clusters), size=len(clusters))])
        for _ in range(draws)
    ]
    return percentile(values, statistic(clusters))


def stratified_bootstrap(
    scores: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """A statistic of scores[run, task] with runs drawn again within each task, tasks kept.

    Tasks are the strata: which tasks were asked is fixed, which seeds were run is chance. With few runs the
    interval is too narrow (`docs/analysis.md` has the coverage); for a mean over few seeds take
    `mean_interval`.

    References:
        Agarwal et al. 2021, section 4.1, https://arxiv.org/abs/2108.13264
    """
    scores = np.asarray(scores, dtype=float)
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    column = np.arange(tasks)
    values = [statistic(scores[rng.integers(runs, size=(runs, tasks)), column]) for _ in range(draws)]
    return percentile(values, statistic(scores), level)


def hierarchical_bootstrap(
    scores: NDArray[np.float64], *, draws: int = 2000, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The mean of scores[seed, question] with seeds and questions both drawn again.

        mean*_b = 1/(S Q) sum_s sum_q c_s^b d_q^b x_sq,   c^b, d^b multinomial counts

    All seeds answer the same questions, so a question is drawn for all seeds at once (crossed levels);
    drawing questions anew for each seed would take shared questions for independent ones. It counts the
    residual variance more than once and so is wide where single answers are noisy (98% of the truth within
    a 95% interval in `docs/analysis.md`); `crossed_interval` is the one verdicts rest on.

    References:
        Owen 2007, The pigeonhole bootstrap, https://arxiv.org/abs/0712.1111
    """
    scores = np.asarray(scores, dtype=float)
    seeds, questions = scores.shape
    rng = np.random.default_rng(seed)
    by_seed = rng.multinomial(seeds, [1 / seeds] * seeds, size=draws) @ scores
    by_question = rng.multinomial(questions, [1 / questions] * questions, size=draws)
    return percentile((by_seed * by_question).sum(axis=1) / (seeds * questions), float(scores.mean()), level)


class Crossed(NamedTuple):
    """The variance of a mean over seeds and questions, in parts.

    Attributes:
        error: standard error of the mean, for new seeds and new questions.
        freedom: degrees of freedom, Satterthwaite's.
        seed_error: the part of it that more questions cannot make smaller than, s_seed / sqrt(S).
        question_error: the part that more seeds cannot.
    """

    error: float
    freedom: float
    seed_error: float
    question_error: float


def crossed_error(scores: NDArray[np.float64]) -> Crossed:
    """Standard error of the mean of scores[seed, question], both being samples.

        x_sq = mu + a_s + b_q + e_sq
        Var(mean) = sigma_a^2 / S + sigma_b^2 / Q + sigma_e^2 / (S Q) = A + B - E
        A = Var(seed means) / S,  B = Var(question means) / Q,  E = residual mean square / (S Q)
        freedom = (A + B - E)^2 / (A^2 / (S - 1) + B^2 / (Q - 1) + E^2 / ((S - 1)(Q - 1)))

    A alone is the error for new seeds on the same questions, B alone that of these seeds on new questions.
    Where A + B - E falls below A or B, the larger of the two is taken, with its own degrees of freedom.

    References:
        Searle, Casella and McCulloch 1992, Variance Components, section 4.7; Satterthwaite 1946
    """
    scores = np.asarray(scores, dtype=float)
    seeds, questions = scores.shape
    by_seed, by_question = scores.mean(axis=1), scores.mean(axis=0)
    a, b = float(np.var(by_seed, ddof=1)) / seeds, float(np.var(by_question, ddof=1)) / questions
    residual = scores - by_seed[:, None] - by_question[None, :] + scores.mean()
    pairs = (seeds - 1) * (questions - 1)
    e = float((residual**2).sum()) / pairs / (seeds * questions)
    total = a + b - e
    if total <= max(a, b):
        total, freedom = (a, seeds - 1) if a >= b else (b, questions - 1)
    else:
        freedom = total**2 / (a**2 / (seeds - 1) + b**2 / (questions - 1) + e**2 / pairs)
    return Crossed(total**0.5, float(freedom), a**0.5, b**0.5)


def crossed_interval(scores: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """The mean of scores[seed, question] with the t interval of `crossed_error`: for new seeds and new
    questions.

    Needs two seeds and two questions.
    """
    found, mean = crossed_error(scores), float(np.mean(scores))
    half = float(stats.t.ppf((1 + level) / 2, found.freedom)) * found.error
    return Interval(mean, mean - half, mean + half)


def performance_profile(
    scores: NDArray[np.float64], thresholds: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> list[Interval]:
    """Share of runs and tasks that score above each threshold, with pointwise stratified bootstrap intervals.

        F(tau) = 1/M sum_m 1/N sum_n 1[x_mn > tau]

    References:
        Agarwal et al. 2021, section 4.2, https://arxiv.org/abs/2108.13264
    """
    scores, taus = np.asarray(scores, dtype=float), np.asarray(thresholds, dtype=float)
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    above = scores[:, :, None] > taus
    drawn = np.array(
        [
            above[rng.integers(runs, size=(runs, tasks)), np.arange(tasks)].mean(axis=(0, 1))
            for _ in range(draws)
        ]
    )
    return [percentile(drawn[:, i], float(above[:, :, i].mean())) for i in range(len(taus))]


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
