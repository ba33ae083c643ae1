"""What the variance of a mean over seeds and questions is made of, and what would make it smaller."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Components(NamedTuple):
    """Variances of x_sq = mu + a_s + b_q + i_sq + e_sq, and how many seeds and questions there were.

    Attributes:
        seeds: of a_s.
        questions: of b_q.
        interaction: of i_sq, what a seed learned of a question.
        prediction: of e_sq, what another sampled answer of the same policy would change.
        n_seeds: S.
        n_questions: Q.
    """

    seeds: float
    questions: float
    interaction: float
    prediction: float
    n_seeds: int
    n_questions: int

    def variance(self, *, seeds: float = 1, questions: float = 1, samples: float = 1) -> float:
        """Of the mean, with so many times the seeds, the questions and the samples of a question.

        sigma_a^2 / S + sigma_b^2 / Q + (sigma_i^2 + sigma_e^2 / samples) / (S Q)
        """
        s, q = seeds * self.n_seeds, questions * self.n_questions
        pairs = (self.interaction + self.prediction / samples) / (s * q)
        return self.seeds / s + self.questions / q + pairs


def components(gaps: NDArray[np.float64], prediction: float = 0.0) -> Components:
    """The components of gaps[seed, question] by the mean squares of a two-way layout, none below 0.

        sigma_a^2 = (MS_seed - MS_e) / Q,  sigma_b^2 = (MS_question - MS_e) / S
        sigma_i^2 = MS_e - prediction

    Args:
        gaps: of at least two seeds and two questions.
        prediction: the mean variance of one entry that comes of sampling the answers; 0 of greedy ones.

    References:
        Searle, Casella and McCulloch 1992, Variance Components, section 4.7
    """
    gaps = np.asarray(gaps, dtype=float)
    s, q = gaps.shape
    by_seed, by_question = gaps.mean(axis=1), gaps.mean(axis=0)
    residual = gaps - by_seed[:, None] - by_question[None, :] + gaps.mean()
    error = float((residual**2).sum()) / ((s - 1) * (q - 1))
    seeds = q * float(np.var(by_seed, ddof=1))
    questions = s * float(np.var(by_question, ddof=1))
    return Components(
        max(0.0, (seeds - error) / q),
        max(0.0, (questions - error) / s),
        max(0.0, error - prediction),
        min(prediction, error),
        s,
        q,
    )


def sampling_variance(shares: NDArray[np.float64], samples: int) -> float:
    """Mean variance of shares of so many sampled answers, each by its unbiased estimate.

        p (1 - p) / (k - 1)

    Example:
        >>> sampling_variance(np.array([[0.5, 1.0]]), 5)
        0.03125
    """
    return float(np.mean(shares * (1 - shares))) / (samples - 1) if samples > 1 else 0.0
