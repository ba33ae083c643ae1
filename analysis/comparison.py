"""Is one arm better than another: paired tests, corrections for many comparisons, power, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from analysis.stats import LEVEL, Interval, crossed_error, mean_interval, percentile

POWER = 0.8
MOST_SEEDS = 10_000


class McNemar(NamedTuple):
    """Questions that only one of two runs got right, and the chance of a split as uneven."""

    only_one: int
    only_other: int
    p: float


def mcnemar(one: ArrayLike, other: ArrayLike) -> McNemar:
    """Exact McNemar test of two runs on the same questions.

        b = #{one right, other wrong},  c = #{one wrong, other right};  b ~ Binomial(b + c, 1/2)

    Two-sided. It is about these two checkpoints; whether the method differs needs seeds.

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
        McNemar(only_one=5, only_other=0, p=0.0625)

    References:
        McNemar 1947, Psychometrika 12
    """
    first, second = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(b, c, float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0)


class Paired(NamedTuple):
    """A mean difference with its interval, and the achieved significance level of zero."""

    interval: Interval
    p: float


def paired_bootstrap(one: ArrayLike, other: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> Paired:
    """Mean of per-question differences, questions drawn again.

    p is two-sided: twice the smaller share of draws on either side of zero, (count + 1) / (draws + 1).

    References:
        Efron and Tibshirani 1993, section 15.4; Koehn 2004, for paired evaluation
    """
    gaps = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    values, times = np.unique(gaps, return_counts=True)
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(gaps), times / len(gaps), size=draws) @ values / len(gaps)
    side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Paired(percentile(means, float(gaps.mean())), min(1.0, 2 * (side + 1) / (draws + 1)))


def probability_of_improvement(
    one: NDArray[np.float64], other: NDArray[np.float64], *, draws: int = 2000, seed: int = 0
) -> Interval:
    """Chance that a run of one arm beats a run of the other on a task, mean over tasks; ties count half.

        P = 1/M sum_m 1/(N K) sum_{i,j} 1[x_im > y_jm] + 1/2 1[x_im = y_jm]

    Both arms' scores[run, task] are drawn again within each task. It says how often, not by how much.

    References:
        Agarwal et al. 2021, section 4.3, https://arxiv.org/abs/2108.13264; Mann and Whitney 1947
    """
    x, y = (np.asarray(scores, dtype=float) for scores in (one, other))
    wins = (x[:, None, :] > y[None, :, :]) + 0.5 * (x[:, None, :] == y[None, :, :])
    rng = np.random.default_rng(seed)
    values = np.zeros(draws)
    for task in range(x.shape[1]):
        # How often each run is drawn is all that the mean over pairs needs.
        rows, columns = (
            rng.multinomial(len(runs), [1 / len(runs)] * len(runs), size=draws) for runs in (x, y)
        )
        values += ((rows @ wins[:, :, task]) * columns).sum(axis=1) / (len(x) * len(y))
    return percentile(values / x.shape[1], float(wins.mean()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: the chance of any false claim stays below the level.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    References:
        Holm 1979, Scandinavian Journal of Statistics 6
    """
    order = np.argsort(p_values, kind="stable")
    m, adjusted, running = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (m - rank) * p_values[index]))
        adjusted[int(index)] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the expected share of false claims among the claims.

        p~_(i) = min_{j >= i} min(1, m p_(j) / j)

    References:
        Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57
    """
    return [float(p) for p in stats.false_discovery_control(list(p_values), method="bh")] if p_values else []


def power(effect: float, n: int, level: float = LEVEL) -> float:
    """Chance that a two-sided paired t test over n seeds finds an effect, given in standard deviations of a
    seed's difference.

        T ~ noncentral t_{n-1}(effect sqrt(n));  P(|T| > c),  c = t_{n-1, (1 + level)/2}
          = E_s[Phi(effect sqrt(n) - c s) + Phi(-effect sqrt(n) - c s)],  s^2 ~ chi^2_{n-1} / (n - 1)

    Integrated over s: scipy's noncentral t has no value where the effect is large and the seeds are few.

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
    found: Any = optimize.brentq(lambda effect: power(effect, n, level) - target, 1e-6, 1e3)
    return float(found)


@dataclass(frozen=True, slots=True)
class Difference:
    """One arm against the baseline, seed by seed.

    Attributes:
        interval: of the mean difference, at the family's level.
        p: two-sided, of no difference.
        n: seeds.
        spread: standard deviation of a seed's difference.
        over: what was taken to be a sample: "seeds and questions", or "seeds".
        adjusted: p after Holm's correction over the table's comparisons; p itself until then.
    """

    interval: Interval
    p: float
    n: int
    spread: float
    over: str
    adjusted: float

    def verdict(self, higher_is_better: bool = True, level: float = LEVEL) -> str:
        """`better`, `worse`, or `cannot tell` with the seeds that an effect of the size seen would take."""
        if self.adjusted < 1 - level:
            return "better" if (self.interval.estimate > 0) == higher_is_better else "worse"
        if self.n < 2:
            return "cannot tell (one seed)"
        if self.interval.estimate == 0:
            return "cannot tell (no difference seen)"
        if self.p < 1 - level:
            return "cannot tell (not after Holm)"
        needed = seeds_needed(self.interval.estimate / self.spread if self.spread else math.inf, level=level)
        if needed is not None and needed <= self.n:
            # The seeds would do; it is the questions that do not.
            return "cannot tell (more questions)"
        return f"cannot tell ({needed} seeds)" if needed is not None else f"cannot tell (>{MOST_SEEDS} seeds)"


def difference(ours: NDArray[np.float64], base: NDArray[np.float64]) -> Difference:
    """The mean difference of two arms with the same seeds, in the same order.

    Both are scores[seed, question] on the same questions, and then seeds and questions are both samples
    (`crossed_error`); or scores[seed], and then only seeds are (Student's t of the differences).

    Raises:
        ValueError: if the shapes differ.
    """
    if ours.shape != base.shape:
        raise ValueError(
            f"arms of shapes {ours.shape} and {base.shape}: compare the same seeds on the same questions"
        )
    gaps = np.asarray(ours, dtype=float) - np.asarray(base, dtype=float)
    by_seed = gaps if gaps.ndim == 1 else gaps.mean(axis=1)
    n, mean = len(by_seed), float(gaps.mean())
    spread = float(np.std(by_seed, ddof=1)) if n > 1 else float("nan")
    if gaps.ndim == 1 or n < 2 or gaps.shape[1] < 2:
        interval = mean_interval(by_seed)
        error, freedom = spread / math.sqrt(n), n - 1
        over = "seeds"
    else:
        found = crossed_error(gaps)
        error, freedom = found.error, found.freedom
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
        interval, over = Interval(mean, mean - half, mean + half), "seeds and questions"
    p = (
        1.0
        if n < 2 or (mean == 0 and error == 0)
        else 0.0
        if error == 0
        else 2 * float(stats.t.sf(abs(mean) / error, freedom))
    )
    return Difference(interval, p, n, spread, over, p)


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The differences of one table with Holm-adjusted p-values."""
    return [
        Difference(one.interval, one.p, one.n, one.spread, one.over, adjusted)
        for one, adjusted in zip(differences, holm([one.p for one in differences]), strict=True)
    ]
