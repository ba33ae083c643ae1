"""Tests of two arms on the same questions or tasks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.stats.intervals import LEVEL, Interval, percentile, wilson_interval
from analysis.stats.rounding import settled


class McNemar(NamedTuple):
    """Questions that only one of two runs got right, and the chance of a split as uneven."""

    only_ours: int
    only_theirs: int
    p: float


def mcnemar(ours: ArrayLike, theirs: ArrayLike) -> McNemar:
    """Exact McNemar test of two runs on the same questions.

        b = #{ours right, theirs wrong},  c = #{ours wrong, theirs right};  b ~ Binomial(b + c, 1/2)

    Two-sided. It is about these two checkpoints; whether the method differs needs seeds.

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
        McNemar(only_ours=5, only_theirs=0, p=0.0625)

    References:
        McNemar 1947, Psychometrika 12
    """
    first, second = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(b, c, min(1.0, 2 * float(special.bdtr(min(b, c), b + c, 0.5))))


class Paired(NamedTuple):
    """A mean difference with its interval, and the achieved significance level of zero."""

    interval: Interval
    p: float


def paired_bootstrap(ours: ArrayLike, theirs: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> Paired:
    """Mean of per-question differences, questions drawn again.

    p is two-sided: twice the smaller share of draws on either side of zero, (count + 1) / (draws + 1).

    References:
        Efron and Tibshirani 1993, section 15.4; Koehn 2004, for paired evaluation
    """
    gaps = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    values, times = np.unique(gaps, return_counts=True)
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(gaps), times / len(gaps), size=draws) @ values / len(gaps)
    side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Paired(percentile(means, float(gaps.mean())), min(1.0, 2 * (side + 1) / (draws + 1)))


def probability_of_improvement(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], level: float = LEVEL
) -> Interval:
    """Chance that an arm beats another with the same seed; ties count half. Wilson's interval over seeds.

        P = 1/N sum_i 1[x_i > y_i] + 1/2 1[x_i = y_i]

    Args:
        ours: scores[seed], or scores[seed, question], whose means are compared.
        theirs: of the same seeds in the same order.
        level: of the interval.
    """
    gaps = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    by_seed = settled(gaps if gaps.ndim == 1 else gaps.mean(axis=1))
    share = float(((by_seed > 0) + 0.5 * (by_seed == 0)).mean())
    return wilson_interval(share, len(by_seed), level)
