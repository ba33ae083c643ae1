"""What a question contributes to a metric of an evaluation, by the metric's name.

A name is `eval/QUANTITY`, or `eval/SET/QUANTITY` of another evaluation set than the run's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.data.export import Export, Frame
from analysis.stats.intervals import coverage_at_k_by_question, pass_at_k_by_question

PREFIX = "eval/"
GREEDY = "greedy_accuracy"
# Columns of `questions` that are a question's share of the metric, and those that are a sum over its samples.
AS_THEY_ARE: Mapping[str, str] = {
    GREEDY: "right",
    "greedy_strict": "strict",
    "greedy_flexible": "flexible",
    "truncated": "truncated",
    "length": "tokens",
    "distinct": "distinct",
}
A_SAMPLE: Mapping[str, str] = {
    "pass@1": "samples_right",
    "sampled_length": "sampled_tokens",
    "sampled_truncated": "sampled_truncated",
}


def _distinct_right(counts: Sequence[int]) -> float:
    return float(np.count_nonzero(counts))


def _right_entropy(counts: Sequence[int]) -> float:
    given = np.asarray(counts, dtype=float)
    shares = given[given > 0] / max(given.sum(), 1.0)
    return float(-np.sum(shares * np.log(shares)))


# Of how often the samples give each right answer.
OF_COUNTS: Mapping[str, Callable[[Sequence[int]], float]] = {
    "distinct_right": _distinct_right,
    "right_entropy": _right_entropy,
}
# Quantities that are no shares of answers, nor better for being larger.
COUNTED = (
    *("length", "sampled_length", "distinct", "questions", "unverifiable"),
    *("gold_unverifiable", "gold_gap", "gold_correlation", "right_answer_log_prob"),
    *OF_COUNTS,
)
COLUMNS = (
    *dict.fromkeys([*AS_THEY_ARE.values(), *A_SAMPLE.values()]),
    "samples",
    "majority_right",
    "right_counts",
)


class EvaluationMetric(NamedTuple):
    """A metric of an evaluation: of which set, "" being the run's own, and what."""

    of_set: str
    quantity: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.of_set}{'/' if self.of_set else ''}{self.quantity}"

    @property
    def k(self) -> int | None:
        """The number behind `@`; None where there is none."""
        _, _, k = self.quantity.partition("@")
        return int(k) if k.isdigit() else None

    @property
    def of_samples(self) -> bool:
        """Whether it is of sampled answers."""
        return self.k is not None or self.quantity.startswith("sampled_")

    @property
    def is_share(self) -> bool:
        """Whether it is a share of answers, whose differences are points."""
        return self.quantity not in COUNTED


def evaluation_metric(name: str) -> EvaluationMetric | None:
    """A metric's set and quantity; None where it is not one of an evaluation.

    Example:
        >>> evaluation_metric("eval/svamp/avg@8"), evaluation_metric("reward/mean")
        (EvaluationMetric(of_set='svamp', quantity='avg@8'), None)
    """
    if not name.startswith(PREFIX):
        return None
    of_set, _, quantity = name.removeprefix(PREFIX).rpartition("/")
    return EvaluationMetric(of_set, quantity)


def question_scores(name: str, answers: Frame) -> Frame | None:
    """Each question's score, of whose mean over questions the metric is made.

    Args:
        name: of the metric.
        answers: rows of its set's questions with COLUMNS.

    Returns:
        A series in the order of the rows, NaN where the row has no such number; None where the metric is
        not one of questions.
    """
    metric = evaluation_metric(name)
    if metric is None:
        return None
    if metric.quantity in AS_THEY_ARE:
        return answers[AS_THEY_ARE[metric.quantity]].astype(float)
    samples, kind, k = answers["samples"].astype(float), metric.quantity.partition("@")[0], metric.k
    if metric.quantity in A_SAMPLE:
        return answers[A_SAMPLE[metric.quantity]].astype(float) / samples
    if kind == "avg" and k is not None:
        return (answers["samples_right"].astype(float) / samples).where(samples == k)
    if kind == "maj" and k is not None:
        return answers["majority_right"].astype(float).where(samples == k)
    if kind == "coverage" and k is not None:
        return pd.Series(coverage_at_k_by_question(list(answers["right_counts"]), samples, k), answers.index)
    if metric.quantity in OF_COUNTS:
        return answers["right_counts"].map(OF_COUNTS[metric.quantity], na_action="ignore").astype(float)
    if kind == "pass" and k is not None:
        return pd.Series(pass_at_k_by_question(answers["samples_right"], samples, k), answers.index)
    return None


def last_answers(export: Export, *columns: str, of_set: str = "") -> Frame:
    """The rows of every run's last evaluation of a set; none of a run whose rows of that step are missing."""
    answers = export.answers(*columns, of_set=of_set)
    accuracy = str(EvaluationMetric(of_set, GREEDY))
    evaluated = export.metric(accuracy).groupby("run")["step"].max()
    # A run without the metric is evaluated where it has answers.
    last = answers.groupby("run")["step"].max().to_dict() | evaluated.to_dict()
    return answers[answers["step"] == answers["run"].map(last)]
