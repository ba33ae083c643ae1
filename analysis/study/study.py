"""A checked design with its numbers: scores by arm and seed, and by question where there are answers."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.export import Export, Frame
from analysis.stats.rounding import in_full
from analysis.study.budgets import Budget
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.design import Design, Run, design
from analysis.study.endpoint import (
    ACCURACY,
    OF_EVALUATIONS,
    Endpoint,
    Kind,
    endpoint,
    question_areas,
    read_endpoint,
    run_values,
)
from analysis.study.guards import check, notes, notes_along, unfinished
from analysis.study.looks import looked_before
from analysis.study.metric_choice import MetricChoice, metric_choice
from analysis.study.plan import Plan, plan_of
from analysis.study.primary import PrimaryResult, as_planned, family, shares_of
from analysis.study.question_scores import (
    COLUMNS,
    GREEDY,
    EvaluationMetric,
    evaluation_metric,
    last_answers,
    question_scores,
)
from analysis.study.remembered import Remembered

# An arm's scores, and another's on the same seeds.
Pair: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

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
        endpoint: that somebody named, and that is no accuracy at the end; None where there is none.
        endpoint_margin: within which arms are equal in it; None where nobody says.
        plan: what was planned; None where nothing was.
        plan_notes: what has to be said of the plan.
        planned_endpoint: of the plan; None where there is no plan.
    """

    export: Export
    design: Design
    metric: str
    notes: Sequence[str]
    failed_starts: Sequence[Run] = ()
    reason: str = ""
    budgets: Sequence[Budget] = ()
    margin: float = MARGIN
    endpoint: Endpoint | None = None
    endpoint_margin: float | None = None
    plan: Plan | None = None
    plan_notes: Sequence[str] = ()
    planned_endpoint: Endpoint | None = None

    def on(self, of_set: str) -> "Study":
        """The same runs on another evaluation set, by the accuracy that its samples allow."""
        return self._on_sets[of_set]

    @cached_property
    def _on_sets(self) -> Remembered[str, "Study"]:
        """The same runs on other sets, by set."""

        def on(of_set: str) -> "Study":
            choice = metric_choice(self.export, [run.name for run in self.design.runs], of_set)
            return replace(self, metric=choice.metric, reason=choice.reason)

        return Remembered(on)

    def with_margin(self, margin: float) -> "Study":
        """The same, arms being equal within so much: points of accuracy, or in the unit of a named endpoint.

        Raises:
            ValueError: if that is no margin, or another than a launch recorded for this endpoint.
        """
        shares = self.endpoint is None or self.endpoint.is_share
        planned = self.planned_endpoint
        of_plan = planned is not None and (
            planned.is_share if self.endpoint is None else planned == self.endpoint
        )
        if of_plan and self._recorded_margin not in (None, margin):
            raise ValueError(
                f"margin={in_full(margin)}: the plan that was recorded at launch has "
                f"{in_full(self._recorded_margin)} for {planned}; leave it out, or name another endpoint"
            )
        if not 0 < margin < (100 if shares else float("inf")):
            unit = "points" if shares else f"how much of {self.endpoint}"
            raise ValueError(
                f"margin={in_full(margin)}: {unit} within which arms are equal, above 0, such as 1"
            )
        return replace(self, margin=margin) if shares else replace(self, endpoint_margin=margin)

    @property
    def _recorded_margin(self) -> float | None:
        """The margin of a plan that stood before the runs, which nobody changes afterwards."""
        return self.plan.margin if self.plan is not None and self.plan.recorded else None

    def margin_of(self, endpoint: Endpoint) -> float | None:
        """Within which arms are equal in an endpoint; None where nobody says."""
        if endpoint == self.planned_endpoint and self._recorded_margin is not None:
            return self._recorded_margin / endpoint.scale
        if endpoint.is_share:
            return self.margin / 100
        if endpoint == self.endpoint and self.endpoint_margin is not None:
            return self.endpoint_margin
        return self.plan.margin if self.plan is not None and endpoint == self.planned_endpoint else None

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
        names = [name for name in self.export.names if name.startswith(OF_EVALUATIONS)]
        if not names:
            return {}
        # The last of a column that has a value.
        frame = self.export.metric(*names).groupby("run")[names].last()
        return {
            str(run): {name: value for name, value in zip(names, values, strict=True) if value == value}
            for run, values in zip(frame.index, frame.to_numpy(dtype=float), strict=True)
        }

    def last(self, run: Run, metric: str | None = None) -> float:
        """A metric's last value in a run; NaN where it has none."""
        return float(self._last.get(run.name, {}).get(metric or self.metric, float("nan")))

    def value(self, run: Run, metric: str | None = None) -> float:
        """An endpoint of a run; NaN where it has none."""
        made = read_endpoint(metric or self.metric)
        if made.kind is Kind.END:
            return self.last(run, made.metric)
        return self._computed[made].get(run.name, float("nan"))

    @cached_property
    def _computed(self) -> Remembered[Endpoint, dict[str, float]]:
        """Endpoints that are no last values, by run."""
        return Remembered(lambda made: run_values(self.export, made))

    @cached_property
    def _areas(self) -> Remembered[Endpoint, dict[str, Frame]]:
        """Areas under the curves of questions, by run."""
        return Remembered(lambda made: question_areas(self.export, made))

    def scores(self, arm: str, block: str = "", metric: str | None = None) -> dict[int, float]:
        """An endpoint of an arm's runs by seed, its last accuracy where none is named."""
        return {
            seed: value
            for seed, run in self.runs(arm, block).items()
            if not np.isnan(value := self.value(run, metric))
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

    def table(
        self, arm: str, seeds: Sequence[int], block: str = "", metric: str | None = None
    ) -> Frame | None:
        """A row a seed and a column a question of an arm, questions in the order of their ids.

        None where the endpoint is not one of questions, or the runs did not answer the same ones.
        """
        made, runs = read_endpoint(metric or self.metric), self.runs(arm, block)
        by_question = [self._by_question[runs[seed].name, made] for seed in seeds]
        rows = [values for values in by_question if values is not None]
        if not rows or len(rows) < len(by_question):
            return None
        if any(not row.index.equals(rows[0].index) for row in rows) or not len(rows[0]):
            return None
        return pd.DataFrame(np.array([row.to_numpy() for row in rows]), list(seeds), rows[0].index)

    def matrix(
        self, arm: str, seeds: Sequence[int], block: str = "", metric: str | None = None
    ) -> NDArray[np.float64] | None:
        """The numbers of `table`, as scores[seed, question]."""
        made = self.table(arm, seeds, block, metric)
        return None if made is None else made.to_numpy(dtype=float)

    @cached_property
    def _by_question(self) -> Remembered[tuple[str, Endpoint], Frame | None]:
        """An endpoint of each question, in the order of their ids, or None; by run and endpoint."""
        return Remembered(lambda key: self._question_endpoints(*key))

    def _question_endpoints(self, run: str, made: Endpoint) -> Frame | None:
        parts = evaluation_metric(made.metric)
        if parts is None or made.kind not in (Kind.END, Kind.AREA):
            return None
        if made.kind is Kind.AREA:
            return self._areas[made].get(run)
        table = self._answers.get((run, parts.of_set), pd.DataFrame())
        values = None if table.empty else question_scores(made.metric, table)
        return None if values is None else values.dropna().sort_index()

    def pair(self, arm: str, block: str = "", metric: str | None = None, baseline: str | None = None) -> Pair:
        """An arm's scores and the baseline's, on the seeds that both have.

        scores[seed, question] where both answered the same number of questions, else scores[seed].
        """
        return self._pairs[arm, block, metric or self.metric, baseline or self.design.baseline]

    @cached_property
    def _pairs(self) -> Remembered[tuple[str, str, str, str], Pair]:
        """Scores of two arms, by arm, block, metric and baseline."""
        return Remembered(lambda key: self._pair(*key))

    def _pair(self, arm: str, block: str, metric: str, base: str) -> Pair:
        ours, theirs = self.scores(arm, block, metric), self.scores(base, block, metric)
        seeds = [seed for seed in ours if seed in theirs]
        our_answers, their_answers = (self.matrix(name, seeds, block, metric) for name in (arm, base))
        if our_answers is not None and their_answers is not None and our_answers.shape == their_answers.shape:
            return our_answers, their_answers
        return np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])

    def differences(
        self, block: str = "", metric: str | None = None, baseline: str | None = None
    ) -> dict[str, Difference]:
        """Every other arm that shares a seed with the baseline against it.

        p is corrected over them, those apart that a plan names: theirs is that of `primary`, and so are the
        seeds that they are of.
        """
        base = baseline or self.design.baseline
        planned = self._planned(block, metric)
        # Whoever names comparisons after the launch has seen them: they stay in the family of all.
        apart = planned if self.plan is not None and self.plan.recorded else {}
        gaps = self._gaps(block, metric, base)
        explored = {arm: entry for arm, entry in gaps.items() if (arm, base) not in apart}
        adjusted = corrected(
            [gap for _, gap in explored.values()], [experiment for experiment, _ in explored.values()]
        )
        return (
            {arm: gap for arm, (_, gap) in gaps.items()}
            | dict(zip(explored, adjusted, strict=True))
            | {
                arm: as_planned(self._of_planned_seeds(gap, (arm, block, metric, base)), planned[arm, base])
                for arm, (_, gap) in gaps.items()
                if (arm, base) in planned
            }
        )

    def _of_planned_seeds(self, gap: Difference, key: tuple[str, str, str | None, str]) -> Difference:
        """A difference with the first seeds alone, as many as were planned."""
        ours, theirs = self._planned_seeds(*key)
        return gap if len(ours) == gap.n else self._difference(ours, theirs, key[2])

    def _planned_seeds(
        self, arm: str, block: str, metric: str | None, base: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores of a pair by the first seeds, as many as were planned."""
        ours, theirs = self.pair(arm, block, metric, base)
        most = (self.plan.seeds if self.plan is not None else 0) or len(ours)
        return ours[:most], theirs[:most]

    def _gaps(self, block: str, metric: str | None, base: str) -> dict[str, tuple[Hashable, Difference]]:
        """By arm the experiment that its comparison with a baseline is, and the difference as it is alone."""
        return self._compared[block, metric or self.metric, base]

    @cached_property
    def _compared(self) -> Remembered[tuple[str, str, str], dict[str, tuple[Hashable, Difference]]]:
        """The same, by block, metric and baseline."""
        return Remembered(lambda key: self._comparisons(*key))

    def _comparisons(self, block: str, metric: str, base: str) -> dict[str, tuple[Hashable, Difference]]:
        out: dict[str, tuple[Hashable, Difference]] = {}
        for arm in self.arms(block):
            ours, theirs = self.pair(arm, block, metric, base)
            if arm != base and len(ours):
                experiment = _experiment(ours, theirs, (block, arm, base))
                out[arm] = experiment, self._difference(ours, theirs, metric)
        return out

    def _difference(
        self, ours: NDArray[np.float64], theirs: NDArray[np.float64], metric: str | None
    ) -> Difference:
        made = read_endpoint(metric or self.metric)
        gap = difference(ours, theirs, self.margin_of(made))
        return replace(gap, share=made.is_share, higher_is_better=made.higher_is_better)

    def _planned(self, block: str, metric: str | None) -> dict[tuple[str, str], Difference]:
        """The planned comparisons of an endpoint, by their arms in either order."""
        if self.planned_endpoint is None or read_endpoint(metric or self.metric) != self.planned_endpoint:
            return {}
        of_block = [
            (result.comparison, result.difference) for result in self.primary if result.block == block
        ]
        return {
            arms: gap
            for planned, gap in of_block
            if gap is not None
            for arms in ((planned.arm, planned.other), (planned.other, planned.arm))
        }

    @cached_property
    def primary(self) -> list[PrimaryResult]:
        """The comparisons that the plan names, in every block; none without a plan.

        Where there are more seeds than were planned, of the first ones alone: the error is spent on them.
        """
        if self.plan is None or self.planned_endpoint is None:
            return []
        name = str(self.planned_endpoint)
        results: list[PrimaryResult] = []
        experiments: list[Hashable] = []
        for block in self.design.blocks:
            for planned in self.plan.primary:
                seeds = len(self.pair(planned.arm, block, name, planned.other)[0])
                ours, theirs = self._planned_seeds(planned.arm, block, name, planned.other)
                gap = self._difference(ours, theirs, name) if seeds else None
                shares = shares_of(self.plan, seeds) if seeds else [1.0]
                made = PrimaryResult(
                    comparison=planned, block=block, difference=gap, seeds=seeds, shares=shares
                )
                results.append(made)
                pair = block, planned.arm, planned.other
                experiments.append(_experiment(ours, theirs, pair) if seeds else pair)
        others = [] if self.plan.recorded else self._others(name)
        return family(results, experiments, self.plan, others)

    def _others(self, metric: str) -> list[tuple[Hashable, Difference]]:
        """All comparisons with the baseline of an endpoint that the plan does not name."""
        named = {(planned.arm, planned.other) for planned in self.plan.primary} if self.plan else set()
        base = self.design.baseline
        return [
            entry
            for block in self.design.blocks
            for arm, entry in self._gaps(block, metric, base).items()
            if (arm, base) not in named and (base, arm) not in named
        ]


def _experiment(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], names: tuple[str, str, str]
) -> Hashable:
    """What a comparison is of: arms with the same answers to every question are one under two names."""
    return (ours.tobytes(), theirs.tobytes()) if ours.ndim == 2 else names


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
        metric: the endpoint that is compared (`endpoint.read_endpoint`); else the mean of sampled answers
            where all runs sampled all questions, and greedy accuracy where they did not or runs are only
            listed.
        allow: kinds of findings to pass over.
        compared: false where runs are only listed, and what differs between them does not matter.
        budgets: at which arms are compared too.

    Returns:
        The study of the usable runs, with a note for each kind of finding that was allowed.

    Raises:
        Refused: listing what forbids a table.
        ValueError: if an axis, baseline, metric or kind does not exist.
    """
    full_design = design(export, axis=axis, baseline=baseline, by=by)
    # A list of runs has a row for one that never began; a comparison lacks it.
    failed = [] if compared else [run for run in full_design.runs if _failed_start(run)]
    begun = replace(full_design, runs=[run for run in full_design.runs if run not in failed])
    finished = [run.name for run in begun.runs if not unfinished(run.row)]
    choice = metric_choice(export, finished) if compared and finished else MetricChoice(METRIC, "")
    named = endpoint(metric, choice.metric, export.names) if metric is not None and finished else None
    if named is not None and named.kind is Kind.END and named.is_share:
        choice, named = MetricChoice(named.metric, choice.reason if metric == ACCURACY else ""), None
    if named is not None and not compared:
        raise ValueError(
            f"metric={metric}: runs one by one are shown by a share of their evaluations, such as {METRIC}"
        )
    usable, allowed = check(export, begun, named.metric if named else choice.metric, allow, compared=compared)
    made = Study(
        export,
        usable,
        choice.metric,
        [*export.notes, *notes_along(usable), *notes(allowed)],
        failed,
        choice.reason,
        budgets,
    )
    return _with_plan(replace(made, endpoint=named)) if compared else replace(made, endpoint=named)


def _with_plan(made: Study) -> Study:
    """The study with what was planned for it."""
    sweep_names = [str(run.row["sweep"]).rpartition("/")[2] for run in made.design.runs if run.row["sweep"]]
    plan, said = plan_of(made.export.plans, sweep_names)
    if plan is None or not plan.looks:
        said = [*said, *looked_before(made.design.runs)]
    if plan is None:
        return replace(made, plan_notes=said)
    accuracy = metric_choice(made.export, [run.name for run in made.design.runs]).metric
    try:
        planned = endpoint(plan.metric or ACCURACY, accuracy, made.export.names)
    except ValueError as error:
        return replace(made, plan_notes=[*said, f"The plan's endpoint cannot be read: {error}."])
    margin = plan.margin if plan.margin is not None and planned.is_share else made.margin
    return replace(made, plan=plan, plan_notes=said, planned_endpoint=planned, margin=margin)


def _failed_start(run: Run) -> bool:
    return run.row["state"] == "failed" and not run.row["rows"]
