"""A checked design with its numbers: scores by arm and seed, and by question where there are answers."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.export import Export, Frame
from analysis.study.budgets import Budget
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.design import Design, Run, design
from analysis.study.guards import check, notes, unfinished
from analysis.study.metric_choice import metric_choice
from analysis.study.question_scores import (
    COLUMNS,
    GREEDY,
    EvaluationMetric,
    evaluation_metric,
    last_answers,
    question_scores,
)

METRIC = str(EvaluationMetric("", GREEDY))
DRIFT = "drift/kl"
MARGIN = 1.0


@dataclass(frozen=True)
class Study:
    """What tables and figures are made of.

    Attributes:
        export: the numbers.
        design: the usable runs.
        metric: the accuracy that is compared.
        notes: for the foot of every table: what was allowed.
        failed_starts: runs that were refused before their first row; known where runs are only listed.
        reason: why that accuracy; "" where somebody named it.
        budgets: at which arms are compared too.
        margin: points of accuracy within which arms are equal.
    """

    export: Export
    design: Design
    metric: str
    notes: Sequence[str]
    failed_starts: Sequence[Run] = ()
    reason: str = ""
    budgets: Sequence[Budget] = ()
    margin: float = MARGIN

    def on(self, of_set: str) -> "Study":
        """The same runs on another evaluation set, by the accuracy that its samples allow."""
        choice = metric_choice(self.export, [run.name for run in self.design.runs], of_set)
        return replace(self, metric=choice.metric, reason=choice.reason)

    def with_margin(self, margin: float) -> "Study":
        """The same, arms being equal within so many points.

        Raises:
            ValueError: if there are no such points, or what is compared is not a share of answers.
        """
        if not 0 < margin < 100:
            raise ValueError(f"margin={margin:g}: points within which arms are equal, above 0, such as 1")
        parts = evaluation_metric(self.metric)
        if parts is None or not parts.is_share:
            raise ValueError(
                f"margin={margin:g}: {self.metric} is not a share of answers; leave --margin out"
            )
        return replace(self, margin=margin)

    @property
    def of_set(self) -> str:
        """The evaluation set that is compared; "" is the runs' own."""
        parts = evaluation_metric(self.metric)
        return parts.of_set if parts is not None and parts.of_set in self.export.sets else ""

    def beside(self, quantity: str) -> str:
        """The name of another metric of the set that is compared."""
        return str(EvaluationMetric(self.of_set, quantity))

    @property
    def by_samples(self) -> bool:
        """Whether sampled answers to all questions are compared."""
        parts = evaluation_metric(self.metric)
        averaged = parts is not None and parts.quantity.startswith("avg@")
        return averaged or (bool(self.reason) and parts is not None and parts.quantity != GREEDY)

    def runs(self, arm: str, block: str = "") -> dict[int, Run]:
        """The runs of an arm in a block, by seed."""
        return self._runs.get((arm, block), {})

    @cached_property
    def _runs(self) -> dict[tuple[str, str], dict[int, Run]]:
        out: dict[tuple[str, str], dict[int, Run]] = {}
        for run in sorted(self.design.runs, key=lambda run: run.seed):
            out.setdefault((run.arm, run.block), {})[run.seed] = run
        return out

    def arms(self, block: str = "") -> list[str]:
        """The arms that have a run in a block, the baseline first."""
        return [arm for arm in self.design.arms if self.runs(arm, block)]

    def ordered_runs(self) -> list[Run]:
        """All runs by block, arm and seed."""
        arms = {arm: index for index, arm in enumerate(self.design.arms)}
        return sorted(self.design.runs, key=lambda run: (run.block, arms[run.arm], run.seed))

    def names(self, arms: Iterable[str], block: str = "") -> tuple[str, ...]:
        """The run ids behind some arms: the sources of a cell."""
        return tuple(run.name for arm in arms for run in self.runs(arm, block).values())

    def curve(self, *metrics: str) -> Frame:
        """run, step and metrics of the usable runs, with arm, block and seed."""
        curves = self.export.metric(*metrics)
        by_name = {run.name: run for run in self.design.runs}
        curves = curves[curves["run"].isin(list(by_name))].copy()
        runs = [by_name[name] for name in curves["run"]]
        curves["arm"] = [run.arm for run in runs]
        curves["block"] = [run.block for run in runs]
        curves["seed"] = [run.seed for run in runs]
        return curves

    @cached_property
    def _last(self) -> dict[str, dict[str, float]]:
        names = [name for name in self.export.names if name.startswith(("eval/", "drift/", "credit/"))]
        if not names:
            return {}
        frame = self.export.metric(*names)
        return {
            str(run): {name: values[name].dropna().iloc[-1] for name in names if values[name].notna().any()}
            for run, values in frame.groupby("run")
        }

    def last(self, run: Run, metric: str | None = None) -> float:
        """A metric's last value in a run; NaN where it has none."""
        return float(self._last.get(run.name, {}).get(metric or self.metric, float("nan")))

    def scores(self, arm: str, block: str = "", metric: str | None = None) -> dict[int, float]:
        """An arm's last values by seed."""
        return {
            seed: value
            for seed, run in self.runs(arm, block).items()
            if not np.isnan(value := self.last(run, metric))
        }

    def questions(self, arm: str, block: str = "", metric: str | None = None) -> float | None:
        """How many questions a metric's last values are of, the fewest of an arm; None where none says."""
        parts = evaluation_metric(metric or self.metric)
        if parts is None:
            return None
        name = str(EvaluationMetric(parts.of_set, "sampled_questions" if parts.of_samples else "questions"))
        return min(self.scores(arm, block, name).values(), default=None)

    @cached_property
    def _answers(self) -> dict[tuple[str, str], Frame]:
        names = [run.name for run in self.design.runs]
        out: dict[tuple[str, str], Frame] = {}
        for of_set in ("", *self.export.sets):
            frame = last_answers(self.export, *COLUMNS, of_set=of_set)
            frame = frame[frame["run"].isin(names)]
            out |= {(str(run), of_set): rows.set_index("uid") for run, rows in frame.groupby("run")}
        return out

    def answers(self, run: Run, of_set: str = "") -> Frame:
        """A run's last answers by question, of its own set or another; empty where it has none."""
        return self._answers.get((run.name, of_set), pd.DataFrame())

    def matrix(
        self, arm: str, seeds: Sequence[int], block: str = "", metric: str | None = None
    ) -> NDArray[np.float64] | None:
        """scores[seed, question] of an arm at its last evaluation, questions in the order of their ids.

        None where the metric is not one of questions, or the runs did not answer the same ones.
        """
        name, runs = metric or self.metric, self.runs(arm, block)
        parts = evaluation_metric(name)
        if parts is None:
            return None
        tables = [self.answers(runs[seed], parts.of_set) for seed in seeds]
        if not tables or any(table.empty for table in tables):
            return None
        rows = []
        for table in tables:
            values = question_scores(name, table)
            if values is None:
                return None
            rows.append(values.dropna().sort_index())
        if any(not row.index.equals(rows[0].index) for row in rows) or not len(rows[0]):
            return None
        return np.array([row.to_numpy() for row in rows])

    def pair(
        self, arm: str, block: str = "", metric: str | None = None, baseline: str | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """An arm's scores and the baseline's, on the seeds that both have.

        scores[seed, question] where both answered the same number of questions, else scores[seed].
        """
        base = baseline or self.design.baseline
        ours, theirs = self.scores(arm, block, metric), self.scores(base, block, metric)
        seeds = [seed for seed in ours if seed in theirs]
        our_answers, their_answers = (self.matrix(name, seeds, block, metric) for name in (arm, base))
        if our_answers is not None and their_answers is not None and our_answers.shape == their_answers.shape:
            return our_answers, their_answers
        return np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])

    def differences(
        self, block: str = "", metric: str | None = None, baseline: str | None = None
    ) -> dict[str, Difference]:
        """Every other arm that shares a seed with the baseline against it, p corrected over them."""
        base = baseline or self.design.baseline
        parts = evaluation_metric(metric or self.metric)
        margin = self.margin / 100 if parts is not None and parts.is_share else None
        out: dict[str, Difference] = {}
        experiments: list[Hashable] = []
        for arm in self.arms(block):
            if arm != base:
                ours, theirs = self.pair(arm, block, metric, base)
                if len(ours):
                    out[arm] = difference(ours, theirs, margin)
                    # Arms with the same answers to every question are one experiment under two names.
                    experiments.append(ours.tobytes() if ours.ndim == 2 else arm)
        return dict(zip(out, corrected(list(out.values()), experiments), strict=True))


def late_means(curves: Frame, names: Sequence[str]) -> Frame:
    """Means over the last quarter of each run's steps: run, arm, block, seed and the metrics."""
    late = _late(curves)
    return late.groupby(["run", "arm", "block", "seed"], as_index=False)[list(names)].mean()


def late_counts(curves: Frame, names: Sequence[str]) -> Frame:
    """How many of those steps have a value: run and the metrics."""
    return _late(curves).groupby("run", as_index=False)[list(names)].count()


def _late(curves: Frame) -> Frame:
    last = curves.groupby("run")["step"].transform("max")
    return curves[curves["step"] > 0.75 * last]


def study(
    export: Export,
    *,
    axis: str | None = None,
    baseline: str | None = None,
    by: Sequence[str] = (),
    metric: str | None = None,
    allow: Iterable[str] = (),
    compared: bool = True,
    budgets: Sequence[Budget] = (),
) -> Study:
    """Find the arms of an export, check them, and keep what may be used.

    Args:
        export: the runs.
        axis: what is compared; else the first axis that varies.
        baseline: the arm that differences are measured from; else the axis' usual one.
        by: settings that make arms, as dotted keys.
        metric: the accuracy that is compared; else the mean of sampled answers where all runs sampled all
            questions, and greedy accuracy where they did not or runs are only listed.
        allow: kinds of findings to pass over.
        compared: false where runs are only listed, and what differs between them does not matter.
        budgets: at which arms are compared too.

    Returns:
        The study of the usable runs, with a note for each kind of finding that was allowed.

    Raises:
        Refused: listing what forbids a table.
        ValueError: if an axis, baseline or kind does not exist.
    """
    full_design = design(export, axis=axis, baseline=baseline, by=by)
    # A list of runs has a row for one that never began; a comparison lacks it.
    failed = [] if compared else [run for run in full_design.runs if _failed_start(run)]
    begun = replace(full_design, runs=[run for run in full_design.runs if run not in failed])
    reason = ""
    if metric is None:
        finished = [run.name for run in begun.runs if not unfinished(run.row)]
        metric, reason = metric_choice(export, finished) if compared and finished else (METRIC, "")
    usable, allowed = check(export, begun, metric, allow, compared=compared)
    return Study(export, usable, metric, [*export.notes, *notes(allowed)], failed, reason, budgets)


def _failed_start(run: Run) -> bool:
    return run.row["state"] == "failed" and not run.row["rows"]
