"""Accuracy where all arms have spent equally much."""

from collections.abc import Sequence
from dataclasses import replace

from analysis.report.accuracy_tables import family
from analysis.report.study_table import (
    accuracy_name,
    basis,
    basis_cell,
    block_heading,
    level_cell,
    levels,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, difference_cells
from analysis.study.budgets import METERS, Budget
from analysis.study.comparison import Difference
from analysis.study.equal_budget import SLACK, UNEVEN, AtBudget, at_budget
from analysis.study.study import Study


def budget_tables(study: Study) -> list[Table]:
    """A table for each budget that the study names."""
    return [at_equal_budget(study, budget) for budget in study.budgets]


def at_equal_budget(study: Study, budget: Budget) -> Table:
    """Accuracy by arm at each run's last evaluation within the budget, with differences and verdicts."""
    reached = at_budget(study, budget)
    axis, base, unit = study.design.axis, study.design.baseline, METERS[budget.name].unit
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    for block in study.design.blocks:
        differences = reached.study.differences(block)
        every += differences.values()
        rows += block_heading(study, block)
        rows += [_row(study, reached, arm, block, differences.get(arm)) for arm in study.arms(block)]
    name = accuracy_name(study)
    head = [axis, f"{unit} in all", "budget", "spent there", "steps there", f"{name} at the end, %"]
    head += [f"{name} there, %", f"difference from {base}", "for new", "p", "verdict"]
    table, title = f"at_budget_{budget.name}_by_{axis}", f"Accuracy by {axis} at an equal budget of {unit}"
    if study.of_set:
        table, title = f"{table}_on_{study.of_set}", f"{title}, on {study.of_set}"
    made = study_table(study, table, title, head, rows, _foot(study, reached, every))
    return replace(made, notes=[*made.notes, *_uneven(reached)])


def _uneven(reached: AtBudget) -> list[str]:
    """What has to be seen where evaluations are so far apart that budgets are not equal."""
    if not reached.uneven:
        return []
    run, share = min(reached.uneven, key=lambda entry: entry[1])
    return [
        f"Not equal: {len(reached.uneven)} of {len(reached.steps)} runs had spent less than {UNEVEN:.0%} of "
        f"the budget at their evaluation, {run.arm}, seed {run.seed} {share:.0%}: evaluate more often "
        "(eval_every)."
    ]


def _row(
    study: Study, reached: AtBudget, arm: str, block: str, difference: Difference | None
) -> list[TableCell]:
    arm_runs, pair_runs = study.names([arm], block), study.names([arm, study.design.baseline], block)
    there = [reached.spent[run][0] for run in arm_runs if run in reached.spent]
    total = [reached.spent[run][1] for run in arm_runs if run in reached.spent]
    gap, p, verdict = difference_cells(difference, pair_runs)
    limit = [reached.limits[block]] if block in reached.limits else []
    steps = [float(reached.steps[run]) for run in arm_runs if run in reached.steps]
    return [
        TableCell(arm, runs=arm_runs),
        TableCell(amounts(total), runs=arm_runs),
        TableCell(amounts(limit), runs=study.names(study.arms(block), block)),
        TableCell(amounts(there), runs=arm_runs),
        TableCell(amounts(steps), runs=arm_runs),
        level_cell(study, arm, block),
        level_cell(reached.study, arm, block),
        gap,
        basis_cell(difference, pair_runs),
        p,
        verdict,
    ]


def amounts(values: list[float]) -> str:
    """The least and the most of some amounts.

    Example:
        >>> amounts([1500.0, 1500.0]), amounts([2.5e15, 1234567.0]), amounts([])
        ('1500', '1.23e6 to 2.50e15', '—')
    """
    if not values:
        return "—"
    low, high = (_amount(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _amount(value: float) -> str:
    if value < 1e5:
        return f"{value:.0f}" if float(value).is_integer() or value >= 1000 else f"{value:.1f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _foot(study: Study, reached: AtBudget, differences: Sequence[Difference]) -> list[str]:
    name, unit = reached.budget.name, METERS[reached.budget.name].unit
    which = "as named" if reached.budget.value is not None else "the least that any run of a block had spent"
    foot = [
        f"Budget: {unit} up to an evaluation, {which}. Each run counts with its last evaluation at or below "
        f"it, or at most {SLACK - 1:.0%} above.",
        levels(study).replace("Levels: mean of the last", "Levels: mean of that (at the end: of the last)"),
        basis(study, differences),
    ]
    if reached.summed:
        foot.append(
            f"Of {len(reached.summed)} runs {METERS[name].recorded} was not recorded; it is the sum of "
            f"{METERS[name].summed} over steps."
        )
    return foot + family(study)
