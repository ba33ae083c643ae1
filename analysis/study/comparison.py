"""One arm against the baseline: the difference, its p-value, and the verdict."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.stats.corrections import holm
from analysis.stats.crossed import StandardError, crossed_error, half_width, tail
from analysis.stats.intervals import LEVEL, Interval
from analysis.stats.power import deciding_seeds, rounded_seeds
from analysis.stats.rounding import in_full, settled
from analysis.stats.sign_flips import fewest_to_flip, sign_flip_interval, sign_flip_p, tied

BOTH, SEEDS = "seeds and questions", "seeds"
# The first word of a verdict; the last is followed by what would decide it.
VERDICTS = BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "equal", "undecided"
# What stands in place of seeds where their differences are all 0: nothing says how many would find one.
NONE_SEEN = "no difference in any seed"
# Of an endpoint that is neither better nor worse for being larger.
HIGHER, LOWER = "higher", "lower"
CLAIMS = (BETTER, WORSE, HIGHER, LOWER)
# A standard error below this is rounding.
ROUNDING = 1e-12


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
        margin: within which arms are equal, in the difference's unit; None where equality has no meaning.
        unequal_p: of a difference as large as the margin, the larger of two one-sided p-values doubled, so
            that it is below the level where the interval lies inside the margin; after Holm as `adjusted`.
        question_variance: the part of the mean's variance that more seeds cannot make smaller.
        comparisons: of the table.
        possible: whether p can be below the level with so many seeds.
        share: whether it is of shares, which are said in points.
        higher_is_better: of the endpoint; None where more is neither better nor worse.
        primary: whether a plan names it: p is corrected over the plan's comparisons alone.
        wanted: how many seeds a plan has; 0 where none says.
    """

    interval: Interval
    p: float
    n: int
    spread: float
    over: str
    adjusted: float
    margin: float | None = None
    unequal_p: float = 1.0
    question_variance: float = 0.0
    comparisons: int = 1
    possible: bool = True
    share: bool = True
    higher_is_better: bool | None = True
    primary: bool = False
    wanted: int = 0

    def verdict(self, level: float = LEVEL) -> str:
        """`better`, `worse`, `equal within M points`, or `undecided` with what would decide it."""
        if self.adjusted < 1 - level:
            above = self.interval.estimate > 0
            if self.higher_is_better is None:
                return HIGHER if above else LOWER
            return BETTER if above == self.higher_is_better else WORSE
        if self.margin is not None and self.unequal_p < 1 - level:
            return f"{EQUAL} within {self._size(self.margin)}"
        return f"{UNDECIDED} ({self._wanted(level)})"

    def _size(self, margin: float) -> str:
        return points(margin) if self.share else in_full(margin)

    def _wanted(self, level: float) -> str:
        """What would decide it."""
        if self.n < 2:
            return "one seed"
        if self.n < self.wanted:
            return f"{self.n} of {self.wanted} planned seeds"
        if not self.spread and not self.question_variance and not self.interval.estimate:
            return NONE_SEEN
        if not self.possible:
            return f"{fewest_to_flip(level)} seeds at least"
        corrected_level = 1 - (1 - level) / self.comparisons
        if not self.spread and not self.question_variance:
            # Equal differences are decided by their signs alone.
            return f"{max(self.n + 1, fewest_to_flip(corrected_level))} seeds at least"
        seeds = deciding_seeds(
            self.interval.estimate,
            self.spread**2,
            self.question_variance,
            n=self.n,
            margin=self.margin,
            level=corrected_level,
        )
        return "more questions" if seeds == float("inf") else f"{rounded_seeds(seeds)} seeds"

    @property
    def bound(self) -> str:
        """The margin that the difference is shown to be within; "" where it is not."""
        return self._size(self.margin) if self.margin is not None and self.unequal_p < 1 - LEVEL else ""


def points(share: float) -> str:
    """A share as points.

    Example:
        >>> points(0.01), points(0.005)
        ('1 point', '0.5 points')
    """
    size = round(100 * share, 9)
    return f"{in_full(size)} point{'' if size == 1 else 's'}"


def difference(
    ours: NDArray[np.float64], base: NDArray[np.float64], margin: float | None = None
) -> Difference:
    """The mean difference of two arms with the same seeds, in the same order.

    Both are scores[seed, question] on the same questions, and then seeds and questions are both samples: the
    interval is the widest of three and p the largest (`crossed_error`). Or scores[seed], and then only seeds
    are: Student's t of the differences, and where they come in few values the exact sign-flip test too.

    Args:
        ours: of the arm.
        base: of the baseline.
        margin: within which they are equal; only of shares.

    Raises:
        ValueError: if the shapes differ.
    """
    if ours.shape != base.shape:
        raise ValueError(
            f"arms of shapes {ours.shape} and {base.shape}: compare the same seeds on the same questions"
        )
    gaps = np.asarray(ours, dtype=float) - np.asarray(base, dtype=float)
    by_seed = _without_noise(gaps if gaps.ndim == 1 else gaps.mean(axis=1))
    n = len(by_seed)
    if n < 2:
        unbounded = Interval(float(by_seed.mean()), float("-inf"), float("inf"))
        over = SEEDS if gaps.ndim == 1 else BOTH
        return Difference(unbounded, 1.0, n, float("nan"), over, 1.0, margin)
    if gaps.ndim == 1 or gaps.shape[1] < 2:
        errors = (StandardError(_spread(by_seed) / n**0.5, n - 1),)
        made = _by_errors(by_seed, errors, SEEDS, margin)
        return _with_ties(made, by_seed) if tied(by_seed) else made
    gaps = _without_noise(gaps)
    if np.ptp(gaps) == 0:
        # Of scores from 0 to 1 the share of questions that differ bounds the difference.
        least, most = settled([min(ours.min(), base.min()), max(ours.max(), base.max())])
        return _constant(gaps, margin) if least >= 0 and most <= 1 else _unbounded(by_seed, margin)
    crossed = crossed_error(gaps)
    if max(error.size for error in crossed.errors) < ROUNDING:
        return _unbounded(by_seed, margin)
    return replace(
        _by_errors(by_seed, crossed.errors, BOTH, margin), question_variance=crossed.question_variance
    )


def _by_errors(
    by_seed: NDArray[np.float64], errors: Sequence[StandardError], over: str, margin: float | None
) -> Difference:
    """Interval and p-values by the largest of some standard errors."""
    mean, half = float(by_seed.mean()), half_width(errors)
    p = min(1.0, 2 * tail(abs(mean), errors))
    unequal = min(1.0, 2 * tail(margin - abs(mean), errors)) if margin is not None else 1.0
    interval, spread = Interval(mean, mean - half, mean + half), _spread(by_seed)
    return Difference(interval, p, len(by_seed), spread, over, p, margin, unequal)


def _without_noise(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences that are all equal up to rounding as equal ones; any others as they are."""
    equal = settled(gaps)
    return equal if np.ptp(equal) == 0 else gaps


def _spread(by_seed: NDArray[np.float64]) -> float:
    """Standard deviation; 0 of equal values, whose mean may be rounded."""
    return float(np.std(by_seed, ddof=1)) if np.ptp(by_seed) else 0.0


def _with_ties(made: Difference, by_seed: NDArray[np.float64]) -> Difference:
    """The same, no surer than the exact sign-flip test: values that agree do not say how far others lie."""
    flipped = sign_flip_interval(by_seed)
    low, high = min(made.interval.low, flipped.low), max(made.interval.high, flipped.high)
    p = max(made.p if made.spread else 0.0, sign_flip_p(by_seed))
    possible = made.n >= fewest_to_flip()
    interval = Interval(made.interval.estimate, low, high)
    return replace(made, interval=interval, p=p, adjusted=p, unequal_p=1.0, possible=possible)


def _constant(gaps: NDArray[np.float64], margin: float | None) -> Difference:
    """A difference that is the same on every question with every seed.

    Where it is 0 and of shares, the share of questions that differ is at most 1 - (alpha / 2)^(1/Q).
    """
    seeds, questions = gaps.shape
    mean = float(gaps.flat[0])
    if mean == 0 and margin is not None:
        most = 1 - ((1 - LEVEL) / 2) ** (1 / questions)
        unequal = min(1.0, 2 * (1 - margin) ** questions)
        return Difference(Interval(0.0, -most, most), 1.0, seeds, 0.0, BOTH, 1.0, margin, unequal)
    return _unbounded(gaps[:, 0], margin)


def _unbounded(by_seed: NDArray[np.float64], margin: float | None) -> Difference:
    """Where no spread says how far another seed or question would lie: only the exact test of signs."""
    mean, n = float(by_seed.mean()), len(by_seed)
    p, unbounded = sign_flip_p(np.full(n, mean)), Interval(mean, float("-inf"), float("inf"))
    return Difference(unbounded, p, n, 0.0, BOTH, p, margin, possible=n >= fewest_to_flip())


def corrected(
    differences: Sequence[Difference], experiments: Sequence[Hashable] | None = None
) -> list[Difference]:
    """The differences of one table with p-values after Holm: of none, and of one as large as the margin.

    Args:
        differences: of the table.
        experiments: what each is of; those of one experiment under several names are one comparison.
    """
    keys = list(experiments) if experiments is not None else list(range(len(differences)))
    distinct = dict(zip(reversed(keys), reversed(differences), strict=True))
    adjusted, unequal = (
        dict(zip(distinct, holm(values), strict=True))
        for values in (
            [difference.p for difference in distinct.values()],
            [difference.unequal_p for difference in distinct.values()],
        )
    )
    return [
        replace(difference, adjusted=adjusted[key], unequal_p=unequal[key], comparisons=len(distinct))
        for difference, key in zip(differences, keys, strict=True)
    ]
