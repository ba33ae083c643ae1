"""Means over seeds and questions, both being samples: what verdicts rest on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.stats.distributions import student_quantile, student_tail
from analysis.stats.intervals import LEVEL, Interval


class StandardError(NamedTuple):
    """The standard error of a mean and its degrees of freedom."""

    size: float
    freedom: float


class Crossed(NamedTuple):
    """The variance of a mean over seeds and questions, in parts.

    Attributes:
        both: for new seeds and new questions; of size 0 where the parts leave nothing.
        seeds: for new seeds on the same questions.
        questions: for the same seeds on new questions.
        seed_variance: what one more seed is a draw of; its share of the mean's variance falls with seeds.
        question_variance: the part of the mean's variance that more seeds cannot make smaller.
    """

    both: StandardError
    seeds: StandardError
    questions: StandardError
    seed_variance: float
    question_variance: float

    @property
    def errors(self) -> tuple[StandardError, ...]:
        """All three; a claim has to hold by each of them."""
        return self.both, self.seeds, self.questions


def crossed_error(scores: NDArray[np.float64]) -> Crossed:
    """Standard errors of the mean of scores[seed, question], both being samples.

        x_sq = mu + a_s + b_q + e_sq
        Var(mean) = sigma_a^2 / S + sigma_b^2 / Q + sigma_e^2 / (S Q) = A + B - E
        A = Var(seed means) / S,  B = Var(question means) / Q,  E = residual mean square / (S Q)
        freedom = (A + B - E)^2 / (A^2 / (S - 1) + B^2 / (Q - 1) + E^2 / ((S - 1)(Q - 1)))

    A is the variance for new seeds on the same questions, B that of these seeds on new questions. The
    difference of estimates A + B - E may fall below A or B, or below 0, where few seeds happen to agree; so
    no claim rests on it alone (`errors`). Its freedom is at least S - 1: the formula goes to 0 with the
    difference.

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
    total = max(0.0, a + b - e)
    parts = a**2 / (seeds - 1) + b**2 / (questions - 1) + e**2 / pairs
    freedom = max(seeds - 1.0, total**2 / parts) if parts else seeds - 1.0
    return Crossed(
        StandardError(total**0.5, freedom),
        StandardError(a**0.5, seeds - 1),
        StandardError(b**0.5, questions - 1),
        a * seeds,
        max(0.0, b - e),
    )


def half_width(errors: Sequence[StandardError], level: float = LEVEL) -> float:
    """Half the widest t interval by some standard errors."""
    return max(student_quantile((1 + level) / 2, freedom) * size for size, freedom in errors)


def tail(distance: float, errors: Sequence[StandardError]) -> float:
    """The largest chance, by some standard errors, that an estimate is off by more than a distance upwards.

    Twice this is the p-value that fits `half_width`. Errors of size 0 say nothing; 0 where all are.
    """
    tails = [student_tail(distance / size, freedom) for size, freedom in errors if size]
    return max(tails, default=0.0)


def crossed_interval(scores: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """The mean of scores[seed, question] with its interval for new seeds and new questions.

    It is the widest of three t intervals: seeds and questions drawn again, seeds alone, questions alone.

    Args:
        scores: of at least two seeds and two questions.
        level: of the interval.
    """
    half, mean = half_width(crossed_error(scores).errors, level), float(np.mean(scores))
    return Interval(mean, mean - half, mean + half)
