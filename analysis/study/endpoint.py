"""Endpoints: which one number of a run is compared, by the name that somebody gives it.

eval/avg@4, drift/kl            the last value of what evaluations measure
reward/mean                     of a training metric its mean over the steps, as auc:reward/mean
auc:NAME                        area under the curve over the range of steps
last10:NAME                     mean of the last ten values
steps_to:0.7:NAME               the first step at or above 0.7, or the last one where it never is
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.data.export import Export, Frame
from analysis.stats.rounding import in_full
from analysis.study.question_scores import COLUMNS, PREFIX, evaluation_metric, question_scores

# The accuracy that verdicts rest on where nobody names one.
ACCURACY = "accuracy"
# What is measured at evaluations; its last value is the one that counts.
OF_EVALUATIONS = (PREFIX, "drift/", "credit/", "budget/")
# Steps to a threshold are those of evaluations, and with fewer of them they say little.
FEWEST_EVALUATIONS = 8
_NAME = re.compile(r"(?:(?P<auc>auc)|last(?P<last>\d+)|steps_to:(?P<goal>[-+.e\d]+)):(?P<metric>.+)")
# Other rewards' names are not of how good answers are: gaps to the gold reward, what no verifier could read.
_BETTER_HIGH = re.compile(r"reward/(mean|gold|strict|flexible|part/.+)|outcome/right(/.+)?")


class Kind(StrEnum):
    """How a curve becomes one number."""

    END = "value at the end"
    AREA = "area under the curve"
    LAST = "mean of the last values"
    STEPS = "steps to a threshold"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One number of a run.

    Attributes:
        metric: whose curve it is of.
        kind: how the curve becomes a number.
        amount: how many last values, or the threshold.
    """

    metric: str
    kind: Kind
    amount: float = 0.0

    def __str__(self) -> str:
        prefix = {
            Kind.END: "",
            Kind.AREA: "auc:",
            Kind.LAST: f"last{self.amount:.0f}:",
            Kind.STEPS: f"steps_to:{in_full(self.amount)}:",
        }[self.kind]
        return prefix + self.metric

    @property
    def is_share(self) -> bool:
        """Whether it is a share of answers, whose differences are points."""
        parts = evaluation_metric(self.metric)
        return parts is not None and parts.is_share and self.kind is not Kind.STEPS

    @property
    def higher_is_better(self) -> bool | None:
        """Whether more of it is better; None where neither is."""
        parts = evaluation_metric(self.metric)
        if parts is not None:
            good = None if not parts.is_share else "truncated" not in parts.quantity
        else:
            good = True if _BETTER_HIGH.fullmatch(self.metric) else None
        return not good if self.kind is Kind.STEPS and good is not None else good

    @property
    def scale(self) -> float:
        """What it is multiplied by in tables."""
        return 100.0 if self.is_share else 1.0

    @property
    def digits(self) -> int:
        """How many stand after the point in tables."""
        return 1 if self.is_share or self.kind is Kind.STEPS else 3

    @property
    def unit(self) -> str:
        """Of the numbers in tables."""
        return "%" if self.is_share else "steps" if self.kind is Kind.STEPS else ""

    @property
    def description(self) -> str:
        """How it is made of the curve, in a sentence."""
        sampled = self.metric.startswith(OF_EVALUATIONS)
        return {
            Kind.END: f"{self.metric} at the end of a run",
            Kind.AREA: f"area under {self.metric} over the steps of a run: "
            + ("linear between evaluations" if sampled else "its mean over the steps"),
            Kind.LAST: f"mean of the last {self.amount:.0f} values of {self.metric}",
            Kind.STEPS: f"the first step at which {self.metric} is at or above {in_full(self.amount)}; a run "
            "that never gets there counts with its last step, so the mean is restricted to a run's length; "
            "the first of many noisy values to pass a line passes it early",
        }[self.kind]


def read_endpoint(text: str) -> Endpoint:
    """An endpoint of its name.

    Raises:
        ValueError: if it begins as one of these forms and goes on otherwise.

    Example:
        >>> str(read_endpoint("reward/mean")), read_endpoint("eval/avg@4").kind.name
        ('auc:reward/mean', 'END')
        >>> read_endpoint("steps_to:0.7:reward/mean").amount
        0.7
    """
    match = _NAME.fullmatch(text)
    if match is None:
        if ":" in text:
            raise ValueError(
                f"metric={text}: write NAME, auc:NAME, last10:NAME or steps_to:0.7:NAME, NAME being a metric"
            )
        return Endpoint(text, Kind.END if text.startswith(OF_EVALUATIONS) else Kind.AREA)
    if match["auc"]:
        return Endpoint(match["metric"], Kind.AREA)
    if match["last"]:
        return Endpoint(match["metric"], Kind.LAST, max(1.0, float(match["last"])))
    try:
        return Endpoint(match["metric"], Kind.STEPS, float(match["goal"]))
    except ValueError as error:
        raise ValueError(f"metric={text}: {match['goal']} is no number; write steps_to:0.7:NAME") from error


def endpoint(text: str, accuracy: str, names: Sequence[str]) -> Endpoint:
    """An endpoint of some runs.

    Args:
        text: its name; "accuracy" stands for the one that verdicts rest on.
        accuracy: that one.
        names: the metrics that runs have.

    Raises:
        ValueError: if no run has the metric, naming the nearest ones.
    """
    made = Endpoint(accuracy, Kind.END) if text == ACCURACY else read_endpoint(text)
    if made.metric == ACCURACY:
        made = replace(made, metric=accuracy)
    if made.metric not in names:
        close = get_close_matches(made.metric, names, n=3, cutoff=0.5)
        kin = close or [name for name in names if name.split("/")[0] == made.metric.split("/")[0]][:6]
        meant = f"did you mean {' or '.join(kin)}? " if kin else ""
        raise ValueError(
            f"metric={text}: no run has {made.metric}; {meant}runs have, for instance, {accuracy} and "
            f"reward/mean (--metric NAME, auc:NAME, last10:NAME, steps_to:0.7:NAME)"
        )
    return made


def area(steps: ArrayLike, values: ArrayLike) -> float:
    """The area under a curve over the range of its steps, linear between them.

    Example:
        >>> area([0, 20, 40], [0.0, 1.0, 1.0])
        0.75
    """
    return float(areas(steps, values))


def areas(steps: ArrayLike, curves: ArrayLike) -> NDArray[np.float64]:
    """The areas under curves[..., step] of the same steps.

    Example:
        >>> areas([0, 20, 40], [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        array([0.75, 0.25])
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(curves, dtype=float)
    return np.trapezoid(y, x, axis=-1) / (x[-1] - x[0]) if len(x) > 1 else y[..., 0]


def run_values(export: Export, made: Endpoint) -> dict[str, float]:
    """An endpoint of every run that has the metric.

    Raises:
        ValueError: if steps to a threshold are of too few evaluations.
    """
    curves = export.metric(made.metric).dropna()
    groups = {str(run): rows.sort_values("step") for run, rows in curves.groupby("run")}
    if made.kind is Kind.STEPS and groups:
        fewest = min(len(rows) for rows in groups.values())
        if fewest < FEWEST_EVALUATIONS:
            raise ValueError(
                f"metric={made}: {made.metric} has {fewest} values in a run, and steps to a threshold need "
                f"{FEWEST_EVALUATIONS}: evaluate more often (eval_every), or compare auc:{made.metric}"
            )
    return {run: _value(made, rows) for run, rows in groups.items()}


def _value(made: Endpoint, rows: Frame) -> float:
    steps, values = rows["step"].to_numpy(), rows[made.metric].to_numpy()
    if made.kind is Kind.END:
        return float(values[-1])
    if made.kind is Kind.LAST:
        return float(values[-int(made.amount) :].mean())
    if made.kind is Kind.STEPS:
        there = steps[values >= made.amount]
        return float(there[0] if len(there) else steps[-1])
    return area(steps, values) if made.metric.startswith(OF_EVALUATIONS) else float(values.mean())


def question_areas(export: Export, made: Endpoint) -> dict[str, Frame]:
    """By run the area under each question's curve; none of runs whose evaluations lack a question."""
    parts = evaluation_metric(made.metric)
    if parts is None or made.kind is not Kind.AREA:
        return {}
    answers = export.answers(*COLUMNS, of_set=parts.of_set)
    scores = question_scores(made.metric, answers)
    if scores is None:
        return {}
    out: dict[str, Frame] = {}
    for run, rows in answers.assign(score=scores).groupby("run"):
        table = rows.pivot(index="uid", columns="step", values="score").sort_index(axis=1)
        if len(table) and not table.isna().any(axis=None):
            steps = table.columns.to_numpy(dtype=float)
            scores_by_step = table.to_numpy(dtype=float)
            out[str(run)] = pd.Series(areas(steps, scores_by_step), table.index).sort_index()
    return out
