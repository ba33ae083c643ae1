"""Means over seeds and questions, both being samples: what verdicts rest on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.stats.intervals import LEVEL, Interval


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
    Where A + B - E falls below A or B, the larger of the two is taken, with its degrees of freedom.

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
    """The mean of scores[seed, question] with its t interval for new seeds and new questions.

    Args:
        scores: of at least two seeds and two questions.
        level: of the interval.
    """
    crossed, mean = crossed_error(scores), float(np.mean(scores))
    half = float(stats.t.ppf((1 + level) / 2, crossed.freedom)) * crossed.error
    return Interval(mean, mean - half, mean + half)
