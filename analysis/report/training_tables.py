"""The tables on the course of training: sampled accuracy, spread and length; steps to the baseline."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from analysis.data import paper
from analysis.data.export import Frame
from analysis.report.study_table import (
    BY_SEED,
    EMPTY,
    block_heading,
    level_cell,
    mean_cell,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, difference_cells, estimate_cell, number
from analysis.stats.intervals import mean_interval, spread_interval, spread_ratio
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.study import Study

PASS = "eval/pass@"
# Evaluations of a run without which a table on its speed says nothing.
FEWEST_FOR_SPEED = 8
SPREAD_HEAD = (
    "spread, points",
    "spread / baseline's",
    "tokens an answer",
    "length, % against baseline",
    "truncated, %",
)


def sampled(study: Study) -> Table:
    """pass@1, its spread over seeds, and the length of answers: what paper B reports on MBPP."""
    axis, base, metrics = study.design.axis, study.design.baseline, study.export.names
    metric = f"{PASS}1" if f"{PASS}1" in metrics else study.metric
    name = "pass@1" if metric == f"{PASS}1" else "greedy accuracy"
    beyond = [name for name in metrics if name.startswith(PASS) and name != f"{PASS}1"]
    largest = sorted(beyond, key=lambda name: int(name.split("@")[1]))[-1:]
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        differences = study.differences(block, metric)
        rows += block_heading(study, block)
        for arm in study.arms(block):
            arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
            gap, _, verdict = difference_cells(differences.get(arm), pair_runs)
            row = [TableCell(arm, runs=arm_runs), level_cell(study, arm, block, metric), gap, verdict]
            row += [level_cell(study, arm, block, other) for other in largest]
            row += _spread_cells(study, arm, block, metric)
            row += _length_cells(study, arm, block)
            rows.append(row)
    head = [axis, f"{name}, %", f"difference from {base}", "verdict"]
    head += [f"{other.removeprefix('eval/')}, %" for other in largest]
    title = f"{name[0].upper()}{name[1:]}, spread and length by {axis}"
    return study_table(
        study, f"sampled_{axis}", title, [*head, *SPREAD_HEAD], rows, _sampled_foot(name, axis)
    )


def _spread_cells(study: Study, arm: str, block: str, metric: str) -> list[TableCell]:
    """The spread over seeds, and its ratio to the baseline's."""
    base = study.design.baseline
    ours, theirs = (list(study.scores(name, block, metric).values()) for name in (arm, base))
    spread = estimate_cell(spread_interval(ours).scaled(100), study.names([arm], block), digits=2)
    if arm == base:
        return [spread, EMPTY]
    pair_runs = study.names([arm, base], block)
    return [spread, estimate_cell(spread_ratio(ours, theirs), pair_runs, digits=2)]


def _length_cells(study: Study, arm: str, block: str) -> list[TableCell]:
    """Tokens of an answer, their change against the baseline seed by seed, and the share that was cut."""
    base, runs = study.design.baseline, study.names([arm], block)
    ours, theirs = (study.scores(name, block, "eval/length") for name in (arm, base))
    changes = [100 * (ours[seed] / theirs[seed] - 1) for seed in ours if theirs.get(seed)]
    change = EMPTY
    if arm != base and changes:
        change = estimate_cell(mean_interval(changes), study.names([arm, base], block), sign=True)
    return [mean_cell(list(ours.values()), runs), change, level_cell(study, arm, block, "eval/truncated")]


def _sampled_foot(name: str, axis: str) -> list[str]:
    foot = [
        f"{name}: mean over seeds with Student's 95% interval. Spread: standard deviation over seeds with "
        "its chi-square interval; ratios of spreads with the F interval. Length: tokens of a greedy answer, "
        "change seed by seed."
    ]
    if axis == "divergence":
        printed = "; ".join(
            f"{number.arm} {number.quantity} {number}"
            for number in paper.NUMBERS
            if number.quantity in ("spread", "length")
        )
        foot.append(f"Published on MBPP, arXiv {paper.GBMPO} (length in % against KL): {printed}.")
    return foot


def steps_to_baseline(study: Study) -> Table | None:
    """Steps to the baseline's final accuracy; None where a run was evaluated fewer than eight times."""
    curves = study.curve(study.metric).dropna()
    if _evaluations(curves) < FEWEST_FOR_SPEED:
        return None
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        ends = study.scores(base, block)
        if not ends:
            continue
        goal = float(np.mean(list(ends.values())))
        firsts = {arm: _steps_to(goal, study.metric, curves, arm, block) for arm in study.arms(block)}
        steps = {arm: by_seed for arm, (by_seed, _) in firsts.items()}
        differences = _differences_by_seed(steps, base)
        rows += block_heading(study, block)
        for arm, by_seed in steps.items():
            arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
            row = [
                TableCell(arm, runs=arm_runs),
                TableCell(number(100 * goal), runs=study.names([base], block)),
                TableCell(f"{firsts[arm][1]} of {len(by_seed)}", runs=arm_runs),
                mean_cell(list(by_seed.values()), arm_runs),
                *difference_cells(differences.get(arm), pair_runs, scale=1),
            ]
            rows.append(row)
    foot = [
        f"The goal is {base}'s mean accuracy at its last step. A seed's steps are those of its first "
        "evaluation at or above the goal; a seed that never gets there counts with its last step: the mean "
        "is restricted to the run's length. Fewer steps are better.",
        "The first of many noisy evaluations to pass a line passes it early: half of the baseline's own "
        "seeds do before their end.",
        BY_SEED,
    ]
    head = [axis, "goal, %", "seeds that reach it", "steps to it"]
    head += [f"difference from {base}", "p", "verdict"]
    return study_table(
        study, f"steps_to_baseline_{axis}", f"Steps to {base}'s final accuracy", head, rows, foot
    )


def _evaluations(curves: Frame) -> int:
    """The fewest evaluated steps of a run."""
    return 0 if curves.empty else int(curves.groupby("run")["step"].nunique().min())


def _steps_to(goal: float, metric: str, curves: Frame, arm: str, block: str) -> tuple[dict[int, float], int]:
    """By seed the first step at or above a goal, else the last one; and how many seeds reach it."""
    course = curves[(curves["arm"] == arm) & (curves["block"] == block)]
    steps: dict[int, float] = {}
    reached = 0
    for seed, rows in course.groupby("seed"):
        first = rows["step"][rows[metric] >= goal].min()
        reached += not np.isnan(first)
        steps[int(seed)] = float(rows["step"].max() if np.isnan(first) else first)
    return steps, reached


def _differences_by_seed(values: Mapping[str, Mapping[int, float]], base: str) -> dict[str, Difference]:
    """Every arm's values, of which less is better, against the baseline's on common seeds, p corrected."""
    theirs = values.get(base, {})
    out: dict[str, Difference] = {}
    for arm, ours in values.items():
        seeds = [seed for seed in ours if seed in theirs]
        if arm != base and seeds:
            out[arm] = difference(
                np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])
            )
    fewer = [replace(gap, higher_is_better=False) for gap in out.values()]
    return dict(zip(out, corrected(fewer), strict=True))
