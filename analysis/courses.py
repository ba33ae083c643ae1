"""The tables on the course of training: sampled accuracy, spread and length; steps to the baseline; matched
drift; importance of spans.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis import paper
from analysis.cells import Cell, Table, difference_cells, estimate, number
from analysis.comparison import Difference, corrected, difference
from analysis.export import Frame
from analysis.importance import agreement, by_kind
from analysis.stats import Interval, mean_interval, spread_interval, spread_ratio
from analysis.study import Study
from analysis.tables import levels, share, table, titled

DRIFT = "drift/kl"
BY_SEED = "Differences seed by seed, Student's 95% interval over seeds; p and verdict after Holm over the block's comparisons."


def sampled(study: Study) -> Table:
    """pass@1, its spread over seeds, and the length of answers: what paper B reports on MBPP."""
    base, has = study.design.baseline, study.export.names
    metric = "eval/pass@1" if "eval/pass@1" in has else study.metric
    larger = sorted(
        (name for name in has if name.startswith("eval/pass@") and name != "eval/pass@1"),
        key=lambda name: int(name.split("@")[1]),
    )[-1:]
    name = "pass@1" if metric == "eval/pass@1" else "greedy accuracy"
    head = [
        study.design.axis,
        f"{name}, %",
        f"difference from {base}",
        "verdict",
        *(one.removeprefix("eval/") + ", %" for one in larger),
    ]
    head += [
        "spread, points",
        "spread / baseline's",
        "tokens an answer",
        "length, % against baseline",
        "truncated, %",
    ]
    rows: list[list[Cell]] = []
    for block in study.design.blocks:
        found = study.differences(block, metric)
        rows += titled(study, block)
        theirs = study.scores(base, block, metric)
        for arm in study.arms(block):
            own, both = study.names([arm], block), study.names([arm, base], block)
            values = study.scores(arm, block, metric)
            gap, _, verdict = difference_cells(found.get(arm), both)
            row = [Cell(arm, runs=own), share(list(values.values()), own), gap, verdict]
            row += [share(list(study.scores(arm, block, one).values()), own) for one in larger]
            row.append(estimate(spread_interval(list(values.values())).scaled(100), own, digits=2))
            row.append(
                Cell("")
                if arm == base
                else estimate(spread_ratio(list(values.values()), list(theirs.values())), both, digits=2)
            )
            tokens, others = study.scores(arm, block, "eval/length"), study.scores(base, block, "eval/length")
            row.append(_mean(list(tokens.values()), own))
            change = [100 * (tokens[seed] / others[seed] - 1) for seed in tokens if others.get(seed)]
            row.append(
                Cell("") if arm == base or not change else estimate(mean_interval(change), both, sign=True)
            )
            row.append(share(list(study.scores(arm, block, "eval/truncated").values()), own))
            rows.append(row)
    printed = (
        [f"{one.arm} {one.quantity} {one}" for one in paper.NUMBERS if one.quantity in ("spread", "length")]
        if study.design.axis == "divergence"
        else []
    )
    foot = [
        f"{name}: mean over seeds with Student's 95% interval. Spread: standard deviation over seeds with "
        f"its chi-square interval; "
        "ratios of spreads with the F interval. Length: tokens of a greedy answer, change seed by seed.",
        *(
            [f"Published on MBPP, arXiv {paper.GBMPO} (length in % against KL): {'; '.join(printed)}."]
            if printed
            else []
        ),
    ]
    return table(
        study,
        f"sampled_{study.design.axis}",
        f"{name[0].upper()}{name[1:]}, spread and length by {study.design.axis}",
        head,
        rows,
        foot,
    )


def _mean(values: Sequence[float], runs: Sequence[str]) -> Cell:
    return estimate(mean_interval(values), runs) if len(values) else Cell("—")


def speed(study: Study) -> Table | None:
    """Steps to the baseline's final accuracy; None where accuracy was measured at the ends only."""
    curves = study.curve(study.metric).dropna()
    if curves.empty or curves.groupby("run")["step"].nunique().min() < 3:
        return None
    base = study.design.baseline
    head = [
        study.design.axis,
        "goal, %",
        "seeds that reach it",
        "steps to it",
        f"difference from {base}",
        "p",
        "verdict",
    ]
    rows: list[list[Cell]] = []
    for block in study.design.blocks:
        ends = study.scores(base, block)
        if not ends:
            continue
        goal = float(np.mean(list(ends.values())))
        steps: dict[str, dict[int, float]] = {}
        reached: dict[str, int] = {}
        for arm in study.arms(block):
            mine = curves[(curves["arm"] == arm) & (curves["block"] == block)]
            firsts = {
                int(seed): rows_["step"][rows_[study.metric] >= goal].min()
                for seed, rows_ in mine.groupby("seed")
            }
            last = {int(seed): float(rows_["step"].max()) for seed, rows_ in mine.groupby("seed")}
            reached[arm] = sum(not np.isnan(first) for first in firsts.values())
            steps[arm] = {
                seed: last[seed] if np.isnan(first) else float(first) for seed, first in firsts.items()
            }
        found = _seedwise(steps, base)
        rows += titled(study, block)
        for arm, values in steps.items():
            own, both = study.names([arm], block), study.names([arm, base], block)
            gap, p, verdict = difference_cells(found.get(arm), both, scale=1, higher_is_better=False)
            row = [
                Cell(arm, runs=own),
                Cell(number(100 * goal), runs=study.names([base], block)),
                Cell(f"{reached[arm]} of {len(values)}", runs=own),
            ]
            rows.append([*row, _mean(list(values.values()), own), gap, p, verdict])
    foot = [
        f"The goal is {base}'s mean accuracy at its last step. A seed's steps are those of its first "
        f"evaluation at or above the "
        f"goal; "
        "a seed that never gets there counts with its last step, so that a mean is a lower bound where seeds "
        "are missing. Fewer steps are "
        "better.",
        (
            "The first of many noisy evaluations to pass a line passes it early: half of the baseline's own "
            "seeds do before their end."
        ),
        BY_SEED,
    ]
    return table(
        study, f"steps_to_baseline_{study.design.axis}", f"Steps to {base}'s final accuracy", head, rows, foot
    )


def _seedwise(values: dict[str, dict[int, float]], base: str) -> dict[str, Difference]:
    theirs, found = values.get(base, {}), {}
    for arm, mine in values.items():
        seeds = [seed for seed in mine if seed in theirs]
        if arm != base and seeds:
            found[arm] = difference(
                np.array([mine[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])
            )
    return dict(zip(found, corrected(list(found.values())), strict=True))


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
    """Accuracy where all runs have drifted equally far from the start model; None without drift or
    evaluations on the way.
    """
    curves = study.curve(study.metric, DRIFT).dropna()
    if curves.empty or curves.groupby("run")["step"].nunique().min() < 2 or not curves[DRIFT].max() > 0:
        return None
    base = study.design.baseline
    head = [
        study.design.axis,
        "drift at the end, nats",
        "accuracy at the end, %",
        "matched drift, nats",
        "accuracy there, %",
        f"difference from {base}",
        "p",
        "verdict",
    ]
    rows: list[list[Cell]] = []
    for block in study.design.blocks:
        mine = curves[curves["block"] == block]
        target = float(mine.groupby("run")[DRIFT].max().min())
        matched: dict[str, dict[int, float]] = {}
        for arm in study.arms(block):
            of_arm = mine[mine["arm"] == arm]
            matched[arm] = {
                int(seed): at_drift(list(run[DRIFT]), list(run[study.metric]), target)
                for seed, run in of_arm.groupby("seed")
            }
        found = _seedwise(matched, base)
        rows += titled(study, block)
        for arm, values in matched.items():
            own, both = study.names([arm], block), study.names([arm, base], block)
            gap, p, verdict = difference_cells(found.get(arm), both)
            row = [
                Cell(arm, runs=own),
                _end(study, arm, block, own),
                share(list(study.scores(arm, block).values()), own),
                Cell(number(target, 4)),
            ]
            rows.append([*row, share(list(values.values()), own), gap, p, verdict])
    foot = [
        f"Drift: {DRIFT}, KL from the start model at the start model's own answers, the same states for all "
        f"runs. Matched drift: the "
        f"largest "
        "that every run of the block reaches; accuracy there is linear between the two evaluations around "
        "it. "
        "Coefficients of different divergences are not comparable, drifts are.",
        levels(study).replace("Levels: mean", "Accuracy at the end: mean"),
        BY_SEED,
    ]
    return table(study, f"matched_drift_{study.design.axis}", "Accuracy at matched drift", head, rows, foot)


def _end(study: Study, arm: str, block: str, runs: Sequence[str]) -> Cell:
    values = list(study.scores(arm, block, DRIFT).values())
    return estimate(mean_interval(values).within(0), runs, digits=4) if values else Cell("—")


def importance(study: Study) -> Table | None:
    """What spans are worth by kind, over the last quarter of the steps; None where nothing was scored."""
    kinds = [
        name.removeprefix("credit/drop_") for name in study.export.names if name.startswith("credit/drop_")
    ]
    if not kinds:
        return None
    names = [f"credit/{what}_{kind}" for kind in kinds for what in ("drop", "tokens", "gradient")] + [
        "credit/distractors"
    ]
    late = late_means(study.curve(*names), names)
    head = [
        "kind of span",
        "drop, nats",
        "tokens, %",
        "policy gradient, %",
        "gradient / tokens",
        "negative drops, %",
    ]
    rows: list[list[Cell]] = []
    for block in study.design.blocks:
        for arm in study.arms(block):
            mine = late[(late["arm"] == arm) & (late["block"] == block)]
            own = study.names([arm], block)
            if mine[names].dropna(how="all").empty:
                continue
            rows.append([Cell(", ".join(filter(None, (block, arm))))])
            for kind in kinds:
                drop, tokens, gradient = (
                    mine[f"credit/{what}_{kind}"].dropna() for what in ("drop", "tokens", "gradient")
                )
                ratio = (gradient / tokens).dropna()
                row = [
                    Cell(kind, runs=own),
                    _mean(list(drop), own),
                    share(list(tokens), own),
                    share(list(gradient), own),
                ]
                rows.append(
                    [
                        *row,
                        estimate(mean_interval(list(ratio)), own, digits=2) if len(ratio) else Cell("—"),
                        Cell(""),
                    ]
                )
            rows.append(
                [
                    Cell("all spans", runs=own),
                    *[Cell("")] * 4,
                    share(list(mine["credit/distractors"].dropna()), own),
                ]
            )
    foot = [
        "Mean of the last quarter of a run's steps, then over seeds with Student's 95% interval. Drop: how "
        "much hiding the span lowers "
        "the score that the weighting uses; shares are of the scored completions' trained tokens and of "
        "their policy gradient.",
        *(
            f"arXiv {source}: {claim} [{mark}]."
            for source, claim, mark in paper.CLAIMS
            if source == paper.COUNTERFACTUAL and "span" in claim
        ),
    ]
    return table(study, "importance", "What spans are worth, by kind", head, rows, foot) if rows else None


def truth(study: Study) -> list[Table]:
    """For every run whose spans were re-rolled: drops by kind beside re-rolled success, and what each measure
    puts first.
    """
    out: list[Table] = []
    for run in study.design.runs:
        folder = Path(run.row["source"])
        if not (folder / "credit_truth.jsonl").exists():
            continue
        label = ", ".join(filter(None, (run.block, run.arm, f"seed {run.seed}")))
        for name, title, frame in (
            ("kind", "What spans are worth, re-rolled", by_kind(folder)),
            ("order", "What each measure puts first", agreement(folder)),
        ):
            rows = [[_truth_cell(value, run.name) for value in row] for row in frame.itertuples(index=False)]
            foot = [
                (
                    "95% intervals, bootstrap over completions; python -m analysis importance RUN prints the "
                    "same."
                )
            ]
            out.append(
                table(study, f"truth_{name}_{run.name}", f"{title}: {label}", list(frame.columns), rows, foot)
            )
    return out


def _truth_cell(value: Any, run: str) -> Cell:
    return estimate(value, [run], digits=2) if isinstance(value, Interval) else Cell(str(value), runs=(run,))


def late_means(curves: Frame, names: Sequence[str]) -> Frame:
    """Means over the last quarter of each run's steps: run, arm, block, seed and the metrics."""
    last = curves.groupby("run")["step"].transform("max")
    late = curves[curves["step"] > 0.75 * last]
    return late.groupby(["run", "arm", "block", "seed"], as_index=False)[list(names)].mean()


def every(study: Study) -> list[Table]:
    """All tables that a study has the numbers for, the papers' first."""
    from analysis.tables import accuracy, before_after, grid, papers, statistics

    none = [
        arm
        for arm in study.design.arms
        if arm == "none" and study.design.axis == "divergence" and arm != study.design.baseline
    ]
    found = [
        papers(study), accuracy(study), *(accuracy(study, baseline=arm) for arm in none), grid(study), sampled(study), matched_drift(study), speed(study),
        importance(study), statistics(study), before_after(study),
    ]  # fmt: skip
    return [*(one for one in found if one is not None), *truth(study)]
