"""The tables on the course of training: sampled accuracy, spread and length; steps to the baseline; drift."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from analysis.data import paper
from analysis.data.export import Frame
from analysis.report.study_table import (
    BY_SEED,
    DASH,
    EMPTY,
    block_heading,
    level_cell,
    levels,
    mean_cell,
    percent_cell,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, difference_cells, estimate_cell, number
from analysis.stats.intervals import mean_interval, spread_interval, spread_ratio
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.study import DRIFT, Study

PASS = "eval/pass@"
# Evaluations of a run without which a table on its course says nothing.
FEWEST_FOR_SPEED, FEWEST_FOR_DRIFT = 8, 2
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


def at_drift(drifts: Sequence[float], scores: Sequence[float], target: float) -> float:
    """The score when the drift first reaches a target, linear between evaluations; NaN where it never does.

    Example:
        >>> at_drift([0.0, 1.0, 3.0], [0.5, 0.6, 0.8], 2.0)
        0.7
    """
    for index, drift in enumerate(drifts):
        if drift >= target:
            if index == 0:
                return float(scores[0])
            share = (target - drifts[index - 1]) / (drift - drifts[index - 1])
            return float(scores[index - 1] + share * (scores[index] - scores[index - 1]))
    return float("nan")


def matched_drift(study: Study) -> Table | None:
    """Accuracy where all runs have drifted equally far; None without drift or evaluations on the way.

    A description without verdict. A block in which a run passes that drift before its first evaluation after
    the start has no row but why: between the start and there nothing was measured.
    """
    curves = study.curve(study.metric, DRIFT).dropna()
    if _evaluations(curves) < FEWEST_FOR_DRIFT or not curves[DRIFT].max() > 0:
        return None
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        of_block = curves[curves["block"] == block]
        target = float(of_block.groupby("run")[DRIFT].max().min())
        rows += block_heading(study, block)
        early = _early(of_block, target)
        rows += [[TableCell(early)]] if early else _matched_rows(study, of_block, target, block)
    foot = [
        f"Drift: {DRIFT}, KL from the start model at the start model's own answers, the same states for all "
        "runs. Matched drift: the largest that every run of the block reaches; accuracy there is linear "
        "between the two evaluations around where a run first reaches it. Coefficients of different "
        "divergences are not comparable, drifts are.",
        "A description of the paths, without verdict: accuracy is not a function of drift, and runs are "
        "there after different numbers of steps. To hold both equal: beta_schedule=matched_drift.",
        levels(study).replace("Levels: mean", "Accuracy at the end: mean"),
    ]
    head = [axis, "drift at the end, nats", "accuracy at the end, %", "matched drift, nats"]
    head += ["accuracy there, %", f"difference from {base}"]
    return study_table(study, f"matched_drift_{axis}", "Accuracy at matched drift", head, rows, foot)


def _early(evaluations: Frame, target: float) -> str:
    """Why accuracy at a drift is not known: runs pass it before their second evaluation; "" where none do."""
    second = evaluations.sort_values("step").groupby("run").nth(1)
    early = second[second[DRIFT] > target]
    if early.empty:
        return ""
    arms = ", ".join(dict.fromkeys(early["arm"]))
    return (
        f"not known: {len(early)} runs ({arms}) pass {number(target, 4)} nats between their start and step "
        f"{int(early['step'].max())}, where nothing was evaluated; evaluate more often (eval_every)"
    )


def _matched_rows(study: Study, evaluations: Frame, target: float, block: str) -> list[list[TableCell]]:
    base = study.design.baseline
    matched = {
        arm: {
            int(seed): at_drift(list(run[DRIFT]), list(run[study.metric]), target)
            for seed, run in evaluations[evaluations["arm"] == arm].groupby("seed")
        }
        for arm in study.arms(block)
    }
    differences = _differences_by_seed(matched, base)
    return [
        [
            TableCell(arm, runs=study.names([arm], block)),
            _last_drift(study, arm, block),
            level_cell(study, arm, block),
            TableCell(number(target, 4)),
            percent_cell(list(by_seed.values()), study.names([arm], block), study.questions(arm, block)),
            difference_cells(differences.get(arm), study.names([arm, base], block))[0],
        ]
        for arm, by_seed in matched.items()
    ]


def _last_drift(study: Study, arm: str, block: str) -> TableCell:
    values = list(study.scores(arm, block, DRIFT).values())
    if not values:
        return DASH
    return estimate_cell(mean_interval(values).within(0), study.names([arm], block), digits=4)
