"""One arm against the baseline: the difference, its p-value, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.stats.corrections import holm
from analysis.stats.crossed import crossed_error
from analysis.stats.intervals import LEVEL, Interval, mean_interval
from analysis.stats.power import MOST_SEEDS, seeds_needed


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
        error, freedom, *_ = crossed_error(gaps)
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
        interval, over = Interval(mean, mean - half, mean + half), "seeds and questions"
    p = _p_value(mean, error, freedom, n)
    return Difference(interval, p, n, spread, over, p)


def _p_value(mean: float, error: float, freedom: float, n: int) -> float:
    """Two-sided, of no difference; a constant difference is certain, and one seed says nothing."""
    if n < 2 or (mean == 0 and error == 0):
        return 1.0
    return 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else 0.0


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The differences of one table with Holm-adjusted p-values."""
    adjusted = holm([difference.p for difference in differences])
    return [replace(difference, adjusted=p) for difference, p in zip(differences, adjusted, strict=True)]
