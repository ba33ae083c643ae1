"""The tables on drift: where runs have drifted equally far, and arms that were steered to one drift."""

from analysis.report.study_table import (
    DASH,
    EMPTY,
    basis,
    block_heading,
    label,
    level_cell,
    levels,
    percent_cell,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, difference_cells, estimate_cell, number
from analysis.stats.intervals import Interval, mean_interval
from analysis.stats.rounding import in_full
from analysis.study.comparison import Difference
from analysis.study.matched_drift import REASONS, MatchedDrift, matched_drift
from analysis.study.steered_drift import SteeredDrift, steered_drift
from analysis.study.study import DRIFT, Study

DRIFT_DIGITS = 4
HEAD = (
    "drift at the end, nats",
    "accuracy at the end, %",
    "first step there",
    "last step there",
    "crossings",
    "accuracy at the first, %",
    "accuracy at the last, %",
)
FOOT = (
    f"Drift: {DRIFT}, KL from the start model at the start model's own answers, the same states for all "
    "runs, as it is logged step by step. Matched drift: the largest that every run of the block reaches at "
    "an evaluation. First step there: the first with as much drift, mean over seeds. Last: from which on a "
    "run stays as far, its last step where it ends below. Crossings: how often seeds pass it, in either "
    "direction.",
    "A description of the paths, without verdict: accuracy is not a function of drift, and runs are there "
    "after different numbers of steps. Accuracy there is linear between the evaluations around the step; it "
    "is not known where that begins at the start, or spans more than a few evaluations. To hold drift and "
    "steps equal: beta_schedule=matched_drift.",
)
STEERED_FOOT = (
    "Beta was steered until the measured drift was the target, so arms of one target are compared at equal "
    "drift and equal steps. Where a run ends further than a quarter from its target, or steps differ, there "
    "is no verdict.",
)


def matched_drift_table(study: Study) -> Table | None:
    """Accuracy where all runs have drifted equally far; None without drift, evaluations, or steering.

    A description without verdict. Of an arm whose accuracy there is not known the reason stands below.
    """
    if steered_drift(study):
        return None
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    unknown: list[str] = []
    every = 1
    for block in study.design.blocks:
        matched = matched_drift(study, block)
        if matched is None:
            continue
        every = max(every, matched.every)
        rows += block_heading(study, block)
        text = f"matched drift {number(matched.at, DRIFT_DIGITS)} nats"
        rows.append([TableCell(text, runs=study.names(matched.passages, block))])
        rows += [_matched_row(study, matched, arm, block) for arm in matched.passages]
        unknown += [label(block, text) for text in not_known(matched)]
    if not rows:
        return None
    often = f"Drift was logged every {every} steps (drift_every): steps there are known to as many."
    first = [f"A dash is not known, since {'; '.join(unknown)}."] if unknown else []
    foot = [*first, *FOOT, *([often] if every > 1 else [])]
    foot.append(levels(study).replace("Levels: mean", "Accuracy at the end: mean"))
    head = [axis, *HEAD, f"difference from {base}, first", f"difference from {base}, last"]
    return study_table(study, f"matched_drift_{axis}", "Accuracy at matched drift", head, rows, foot)


def not_known(matched: MatchedDrift) -> list[str]:
    """Sentences on the runs of which accuracy at the drift is not known."""
    return [
        f"{sum(arms.values())} runs ({', '.join(arms)}) {REASONS[reason]}"
        for reason, arms in matched.faults.items()
    ]


def _matched_row(study: Study, matched: MatchedDrift, arm: str, block: str) -> list[TableCell]:
    base = study.design.baseline
    runs, pair = study.names([arm], block), study.names([arm, base], block)
    passages = list(matched.passages[arm].values())
    counts = sorted({run.crossings for run in passages})
    crossings = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    row = [TableCell(arm, runs=runs), _drift_cell(study, arm, block), level_cell(study, arm, block)]
    row += [_step_cell([getattr(run, name) for run in passages], runs) for name in ("first", "last")]
    row.append(TableCell(crossings, runs=runs))
    if matched.known(arm):
        questions = study.questions(arm, block)
        row += [percent_cell([run.scores[which] for run in passages], runs, questions) for which in (0, 1)]
    else:
        row += [DASH, DASH]
    differences = matched.differences(arm, base)
    if differences is None:
        return [*row, EMPTY, EMPTY]
    if not (matched.known(arm) and matched.known(base)):
        return [*row, DASH, DASH]
    return [*row, *(_points_cell(interval, pair) for interval in differences)]


def _points_cell(interval: Interval, runs: tuple[str, ...]) -> TableCell:
    return estimate_cell(interval.scaled(100), runs, sign=True)


def _step_cell(steps: list[int], runs: tuple[str, ...]) -> TableCell:
    spread = "" if len(set(steps)) == 1 else f"({min(steps)} to {max(steps)})"
    return TableCell(number(sum(steps) / len(steps)), spread, runs=runs)


def _drift_cell(study: Study, arm: str, block: str, measure: str = DRIFT) -> TableCell:
    values = list(study.scores(arm, block, measure).values())
    if not values:
        return DASH
    return estimate_cell(mean_interval(values).within(0), study.names([arm], block), digits=DRIFT_DIGITS)


def steered_drift_table(study: Study) -> Table | None:
    """Arms that were steered to one drift, at equal drift and steps, with verdicts; None where none was."""
    groups = steered_drift(study)
    if not groups:
        return None
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    for group in groups:
        every += group.study.differences(group.block).values()
        where = label(group.block, f"{group.measure} steered to {in_full(group.target)}")
        end = f"step {group.steps}" if group.steps is not None else "different steps"
        rows.append([TableCell(f"{where}, {end}", runs=tuple(run.name for run in group.study.design.runs))])
        rows += [_steered_row(group, arm) for arm in group.study.arms(group.block)]
    axis = study.design.axis
    head = [axis, "drift at the end", "accuracy, %", "difference", "p", "verdict"]
    foot = [*STEERED_FOOT, levels(study), basis(study, every, "the baseline of their target")]
    name = f"steered_drift_{axis}"
    return study_table(study, name, "Accuracy at equal drift and equal steps", head, rows, foot)


def _steered_row(group: SteeredDrift, arm: str) -> list[TableCell]:
    study, block = group.study, group.block
    base = study.design.baseline
    runs, pair = study.names([arm], block), study.names([arm, base], block)
    row = [TableCell(arm, runs=runs), _drift_cell(study, arm, block, group.measure)]
    row.append(level_cell(study, arm, block))
    gap, p, verdict = difference_cells(study.differences(block).get(arm), pair)
    if arm == base or group.matched:
        return [*row, gap, p, verdict]
    why = "steps differ" if group.steps is None else "drift is not the target in all runs"
    return [*row, gap, EMPTY, TableCell("none", f"({why})", tone="quiet", runs=pair)]
