"""Arms by an endpoint that is no accuracy at the end: an area, a mean, steps to a threshold."""

from dataclasses import replace

from analysis.report.accuracy_tables import FOR_NEW_FOOT, HEAD
from analysis.report.plan_table import explored
from analysis.report.study_table import EMPTY, basis, basis_cell, block_heading, mean_cell, study_table
from analysis.report.table_cells import Table, TableCell, difference_cells, estimate_cell, number
from analysis.stats.intervals import mean_interval
from analysis.stats.paired import probability_of_improvement
from analysis.study.budgets import METERS, Budget
from analysis.study.comparison import Difference
from analysis.study.endpoint import Endpoint, Kind
from analysis.study.equal_budget import at_budget
from analysis.study.study import Study


def endpoint_table(study: Study, made: Endpoint) -> Table:
    """An endpoint by arm, its difference from the baseline, and the verdict."""
    axis, base, name = study.design.axis, study.design.baseline, str(made)
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    for block in study.design.blocks:
        differences = study.differences(block, name)
        every += differences.values()
        rows += block_heading(study, block)
        rows += [_row(study, made, arm, block, differences.get(arm)) for arm in study.arms(block)]
    unit = f", {made.unit}" if made.unit else ""
    head = [axis, f"{name}{unit}", f"difference from {base}", *HEAD]
    foot = [f"{name}: {made.description}. Levels: mean over seeds with Student's 95% interval."]
    foot += [basis(study, every, base, made), FOR_NEW_FOOT, *_direction(made), *explored(study, name)]
    slug = "".join(letter if letter.isalnum() else "_" for letter in name)
    title = f"{name} by {axis}"
    return study_table(study, f"{slug}_by_{axis}", title, head, rows, foot)


def endpoint_at_budget(study: Study, made: Endpoint, budget: Budget) -> Table:
    """The same of runs that end at their last evaluation within a budget."""
    table = endpoint_table(at_budget(study, budget).study, made)
    unit = METERS[budget.name].unit
    return replace(
        table,
        name=f"{table.name}_at_budget_{budget.name}",
        title=f"{table.title}, up to an equal budget of {unit}",
        foot=[*table.foot, f"Each run counts up to its last evaluation within the budget of {unit}."],
    )


def _direction(made: Endpoint) -> list[str]:
    if made.higher_is_better is None:
        return [f"More of {made.metric} is neither better nor worse: verdicts say higher and lower."]
    return [] if made.higher_is_better else ["Less is better."]


def _row(
    study: Study, made: Endpoint, arm: str, block: str, difference: Difference | None
) -> list[TableCell]:
    name, base = str(made), study.design.baseline
    arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
    values = list(study.scores(arm, block, name).values())
    level = mean_cell([], arm_runs)
    if values:
        level = estimate_cell(mean_interval(values).scaled(made.scale), arm_runs, digits=made.digits)
    if made.kind is Kind.STEPS and values:
        level = TableCell(level.text, f"{level.detail}, {_reached(study, made, arm, block)}", runs=arm_runs)
    chance = EMPTY
    if arm != base and difference is None:
        gap, p, verdict = TableCell("no common seed", tone="quiet"), EMPTY, EMPTY
    else:
        gap, p, verdict = difference_cells(difference, pair_runs, scale=made.scale, digits=made.digits)
    if difference is not None:
        improvement = probability_of_improvement(*study.pair(arm, block, name))
        larger = improvement.estimate
        better = 1 - larger if made.higher_is_better is False else larger
        chance = TableCell(number(better, 2), runs=pair_runs)
    seeds = TableCell(str(len(values)), runs=arm_runs)
    label = TableCell(
        arm, "(primary)" if difference is not None and difference.primary else "", runs=arm_runs
    )
    return [label, level, gap, basis_cell(difference, pair_runs), p, chance, seeds, verdict]


def _reached(study: Study, made: Endpoint, arm: str, block: str) -> str:
    """How many seeds get to the threshold."""
    curves = study.curve(made.metric).dropna()
    course = curves[(curves["arm"] == arm) & (curves["block"] == block)]
    highest = course.groupby("seed")[made.metric].max()
    return f"{int((highest >= made.amount).sum())} of {len(highest)} get there"
