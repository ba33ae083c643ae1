"""A checked design with its numbers: scores by arm and seed, and by question where there are answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.export import Export, Frame
from analysis.data.schema import PER_QUESTION
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.design import Design, Run, design
from analysis.study.guards import check, notes

METRIC = "eval/greedy_accuracy"
DRIFT = "drift/kl"


@dataclass(frozen=True)
class Study:
    """What tables and figures are made of.

    Attributes:
        export: the numbers.
        design: the usable runs.
        metric: the accuracy that is compared.
        notes: for the foot of every table: what was allowed.
        failed_starts: runs that were refused before their first row; known where runs are only listed.
    """

    export: Export
    design: Design
    metric: str
    notes: Sequence[str]
    failed_starts: Sequence[Run] = ()

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

    @cached_property
    def _answers(self) -> dict[str, Frame]:
        if self.export.questions.num_rows == 0:
            return {}
        frame = self.export.answers(
            "right", "strict", "flexible", "truncated", "tokens", "samples", "samples_right"
        )
        frame = frame[frame["run"].isin([run.name for run in self.design.runs])]
        frame = frame[frame["step"] == frame.groupby("run")["step"].transform("max")]
        return {str(run): rows.set_index("uid") for run, rows in frame.groupby("run")}

    def answers(self, run: Run) -> Frame:
        """A run's last answers by question; empty where it has none."""
        return self._answers.get(run.name, pd.DataFrame())

    def matrix(
        self, arm: str, seeds: Sequence[int], block: str = "", metric: str | None = None
    ) -> NDArray[np.float64] | None:
        """scores[seed, question] of an arm at its last evaluation, questions in the order of their ids.

        None where the metric is not one of questions, or the runs did not answer the same ones.
        """
        column = PER_QUESTION.get(metric or self.metric)
        runs = self.runs(arm, block)
        tables = [self.answers(runs[seed]) for seed in seeds]
        if column is None or not tables or any(table.empty for table in tables):
            return None
        rows = []
        for table in tables:
            values = table[column].astype(float)
            values = values / table["samples"].astype(float) if column == "samples_right" else values
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
        out: dict[str, Difference] = {}
        for arm in self.arms(block):
            if arm != base:
                ours, theirs = self.pair(arm, block, metric, base)
                if len(ours):
                    out[arm] = difference(ours, theirs)
        return dict(zip(out, corrected(list(out.values())), strict=True))


def late_means(curves: Frame, names: Sequence[str]) -> Frame:
    """Means over the last quarter of each run's steps: run, arm, block, seed and the metrics."""
    last = curves.groupby("run")["step"].transform("max")
    late = curves[curves["step"] > 0.75 * last]
    return late.groupby(["run", "arm", "block", "seed"], as_index=False)[list(names)].mean()


def study(
    export: Export,
    *,
    axis: str | None = None,
    baseline: str | None = None,
    by: Sequence[str] = (),
    metric: str = METRIC,
    allow: Iterable[str] = (),
    compared: bool = True,
) -> Study:
    """Find the arms of an export, check them, and keep what may be used.

    Args:
        export: the runs.
        axis: what is compared; else the first axis that varies.
        baseline: the arm that differences are measured from; else the axis' usual one.
        by: settings that make arms, as dotted keys.
        metric: the accuracy that is compared.
        allow: kinds of findings to pass over.
        compared: false where runs are only listed, and what differs between them does not matter.

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
    usable, allowed = check(export, begun, metric, allow, compared=compared)
    return Study(export, usable, metric, [*export.notes, *notes(allowed)], failed)


def _failed_start(run: Run) -> bool:
    return run.row["state"] == "failed" and not run.row["rows"]
