"""Arms at an equal budget: each run at its last evaluation within what all runs spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from analysis.data.export import Export, Frame
from analysis.stats.rounding import in_full
from analysis.study.budgets import METERS, Budget, Meter
from analysis.study.design import Run
from analysis.study.study import Study

# Runs of one setting sample a few tokens more or less; so much above the budget an evaluation is within it.
SLACK = 1.05
# A run that had spent less of the budget than this is named.
UNEVEN = 0.9


@dataclass(frozen=True)
class AtBudget:
    """A study in which every run ends at its last evaluation within the budget.

    Attributes:
        study: of the shortened runs.
        budget: as it was named.
        limits: by block how much it is.
        steps: by run the step of that evaluation.
        spent: by run what had been spent there, and by its last evaluation of all.
        summed: ids of the runs whose spending is a sum over steps.
    """

    study: Study
    budget: Budget
    limits: Mapping[str, float]
    steps: Mapping[str, int]
    spent: Mapping[str, tuple[float, float]]
    summed: Sequence[str]

    @property
    def uneven(self) -> list[tuple[Run, float]]:
        """The runs that had spent much less, with the share of the budget."""
        shares = [
            (run, self.spent[run.name][0] / self.limits[run.block])
            for run in self.study.design.runs
            if run.name in self.spent and self.limits[run.block] > 0
        ]
        return [(run, share) for run, share in shares if share < UNEVEN]


def at_budget(study: Study, budget: Budget) -> AtBudget:
    """Every run at its last evaluation within the budget, which is up to 5% above it.

    Raises:
        ValueError: if a run does not say what it spent, spent less than is named, or was not evaluated
            between its start and the budget.
    """
    evaluated = study.curve(study.metric).dropna()
    curves, summed = _spent(study, budget.name)
    curves = evaluated[["run", "step"]].merge(curves, on=["run", "step"], how="left")
    courses = {str(run): rows.sort_values("step") for run, rows in curves.groupby("run")}
    totals = {run: float(rows["spent"].iloc[-1]) for run, rows in courses.items()}
    limits: dict[str, float] = {}
    steps: dict[str, int] = {}
    spent: dict[str, tuple[float, float]] = {}
    for block in study.design.blocks:
        runs = [run for run in study.design.runs if run.block == block and run.name in courses]
        if not runs:
            continue
        limits[block] = _limit(runs, totals, budget)
        for run in runs:
            step, there = _last_within(run, courses[run.name], limits[block], budget)
            steps[run.name], spent[run.name] = step, (there, totals[run.name])
    shortened = replace(study, export=up_to(study.export, steps), plan=None, planned_endpoint=None)
    return AtBudget(shortened, budget, limits, steps, spent, summed)


def _limit(runs: Sequence[Run], totals: Mapping[str, float], budget: Budget) -> float:
    least = min(runs, key=lambda run: totals[run.name])
    common = totals[least.name]
    if budget.value is None:
        return common
    if budget.value > common * SLACK:
        raise ValueError(
            f"budget={budget.name}={in_full(budget.value)}: {least} had spent {common:g} at its last "
            f"evaluation; name at most that, or --budget {budget.name}"
        )
    return budget.value


def _last_within(run: Run, course: Frame, limit: float, budget: Budget) -> tuple[int, float]:
    within = course[course["spent"] <= limit * SLACK]
    beyond = course[(course["spent"] > limit * SLACK) & (course["step"] > 0)]
    if len(beyond) and (within.empty or within["step"].max() == 0):
        raise ValueError(
            f"budget={budget.name}: {run} was not evaluated between its start and {limit:g}, the first time "
            f"at {beyond['spent'].min():g}: evaluate more often (eval_every), or name another budget"
        )
    last = within.iloc[-1]
    return int(last["step"]), float(last["spent"])


def _spent(study: Study, name: str) -> tuple[Frame, list[str]]:
    """run, step and spent of every row of the study's runs; and the runs for which it is a sum over steps."""
    meter, runs = METERS[name], study.design.runs
    rows = study.export.metrics.select(["run", "step"]).to_pandas()
    rows["run"] = rows["run"].astype(str)
    rows = rows[rows["run"].isin([run.name for run in runs])].sort_values(["run", "step"])
    if not meter.recorded:
        return rows.assign(spent=rows["step"].astype(float)), []
    metrics = [metric for metric in (meter.recorded, meter.summed) if metric]
    rows = rows.merge(study.export.metric(*metrics), on=["run", "step"], how="left")
    by_run = rows.groupby("run")
    has = {metric: by_run[metric].count() > 0 for metric in metrics}
    summed: list[str] = []
    spent = by_run[meter.recorded].ffill()
    for run in runs:
        if run.name in has[meter.recorded].index and has[meter.recorded][run.name]:
            continue
        if not meter.summed or not has[meter.summed].get(run.name, False):
            raise ValueError(_unknown(run, name, meter))
        of_run = rows["run"] == run.name
        spent[of_run] = rows.loc[of_run, meter.summed].fillna(0).cumsum()
        summed.append(run.name)
    # Before its first row with an amount a run has spent nothing.
    return rows[["run", "step"]].assign(spent=spent.fillna(0)), summed


def _unknown(run: Run, name: str, meter: Meter) -> str:
    known = ", ".join(other for other, meter in METERS.items() if not meter.recorded or meter.summed)
    recorded = f"{meter.recorded}{f' nor {meter.summed}' if meter.summed else ''}"
    where = ", and W&B does not have timings.jsonl" if name == "device_s" else ""
    return (
        f"budget={name}: {run} has no {recorded}: it is of a version that did not count them{where}; budgets "
        f"that older runs have are {known}"
    )


def up_to(export: Export, steps: Mapping[str, int]) -> Export:
    """An export whose runs end at these steps; runs that are not named are left out."""
    return replace(export, metrics=_up_to(export.metrics, steps), questions=_up_to(export.questions, steps))


def _up_to(table: pa.Table, steps: Mapping[str, int]) -> pa.Table:
    names = table["run"].to_pandas().astype(str)
    last = names.map(steps).fillna(-1).to_numpy()
    return table.filter(pa.array(np.asarray(table["step"].to_pandas()) <= last))
