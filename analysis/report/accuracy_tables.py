"""The tables on the last evaluation's accuracy: by arm, by arm and block, and of every run."""

from collections.abc import Mapping

import numpy as np

from analysis.report.gains import HOW, Gain
from analysis.report.study_table import (
    EMPTY,
    basis,
    block_heading,
    label,
    levels,
    percent_cell,
    sources,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, bounds, difference_cells, number
from analysis.stats.intervals import Interval
from analysis.stats.paired import probability_of_improvement
from analysis.study.comparison import Difference
from analysis.study.design import Run
from analysis.study.study import Study

DRAWS = 2000


def accuracy(study: Study, baseline: str | None = None) -> Table:
    """Accuracy by arm, its difference from the baseline, and the verdict.

    Args:
        study: the runs.
        baseline: the arm to measure from; else the study's, and then the table's name does not say it.
    """
    axis, base = study.design.axis, baseline or study.design.baseline
    rows: list[list[TableCell]] = []
    differences: dict[str, Difference] = {}
    for block in study.design.blocks:
        differences = study.differences(block, baseline=base)
        arms = sorted(study.arms(block), key=lambda arm: arm != base)
        rows += block_heading(study, block)
        rows += [_accuracy_row(study, arm, base, block, differences.get(arm)) for arm in arms]
    name = f"accuracy_by_{axis}" + (f"_from_{base}" if baseline else "")
    return study_table(
        study,
        name.replace(" ", "_"),
        f"Accuracy by {axis}" + (f", measured from {base}" if baseline else ""),
        [axis, "accuracy, %", f"difference from {base}", "p", "P(better)", "seeds", "verdict"],
        rows,
        [
            levels(study),
            basis(study, differences, base),
            "P(better): chance that a run of the arm beats one of the baseline.",
        ],
    )


def _accuracy_row(
    study: Study, arm: str, base: str, block: str, difference: Difference | None
) -> list[TableCell]:
    arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
    values = list(study.scores(arm, block).values())
    if arm != base and difference is None:
        gap, p, verdict = TableCell("no common seed", tone="quiet"), EMPTY, EMPTY
    else:
        gap, p, verdict = difference_cells(difference, pair_runs)
    chance = EMPTY
    if difference is not None:
        chance = TableCell(number(chance_of_improvement(study, arm, base, block).estimate, 2), runs=pair_runs)
    seeds = TableCell(str(len(values)), runs=arm_runs)
    return [TableCell(arm, runs=arm_runs), percent_cell(values, arm_runs), gap, p, chance, seeds, verdict]


def chance_of_improvement(study: Study, arm: str, base: str, block: str) -> Interval:
    """Probability that a run of an arm beats one of the baseline."""
    ours, theirs = (np.array(list(study.scores(name, block).values()))[:, None] for name in (arm, base))
    return probability_of_improvement(ours, theirs, draws=DRAWS)


def grid(study: Study) -> Table | None:
    """Arms by blocks, such as weightings by models; None for a single block."""
    axis, blocks, base = study.design.axis, study.design.blocks, study.design.baseline
    if len(blocks) < 2:
        return None
    rows: list[list[TableCell]] = []
    differences = {block: study.differences(block) for block in blocks}
    for arm in study.design.arms:
        level, gap = [TableCell(arm)], [TableCell(f"  against {base}", tone="quiet")]
        for block in blocks:
            values = list(study.scores(arm, block).values())
            level.append(percent_cell(values, study.names([arm], block)))
            gap.append(_toned_difference(study, arm, block, differences[block].get(arm)))
        rows += [level] if arm == base else [level, gap]
    foot = [
        levels(study),
        basis(study, differences[blocks[0]]),
        "Bold is better, italic worse, plain cannot be told.",
    ]
    others = study.design.others
    title = f"Accuracy by {axis} and {', '.join(others)}"
    return study_table(study, f"{axis}_by_{'_'.join(others)}", title, [axis, *blocks], rows, foot)


def _toned_difference(study: Study, arm: str, block: str, difference: Difference | None) -> TableCell:
    """A difference whose tone is its verdict."""
    if difference is None:
        return EMPTY
    cell, _, verdict = difference_cells(difference, study.names([arm, study.design.baseline], block))
    return TableCell(cell.text, cell.detail, verdict.tone, cell.runs)


def binomial_error(share: float, n: float) -> float:
    """Standard error of a share of n independent answers.

    Example:
        >>> round(binomial_error(0.6, 500), 4)
        0.0219
    """
    return (share * (1 - share) / n) ** 0.5


def _failed_start(run: Run) -> list[TableCell]:
    """The row of a run that has no numbers."""
    reason = str(run.row["error"] or "no reason").splitlines()[0]
    texts = [label(run.block, run.arm), str(run.seed), "0", "", "failed", "", "", reason[:60]]
    return [TableCell(text) for text in texts]


def before_after(study: Study, gains: Mapping[str, Gain] | None = None) -> Table:
    """Accuracy of every run at its first and its last evaluation.

    The errors are binomial, of one evaluation each; both evaluations ask the same questions, so they
    do not add up to the error of the gain.

    Args:
        study: the runs.
        gains: by run, whose intervals stand beside the gain. A comparison does without: its intervals are
            those of differences between arms.
    """
    gains = gains or {}
    curves = study.curve(study.metric, "eval/questions").dropna()
    rows: list[list[TableCell]] = []
    known = sources(study)
    for run in study.ordered_runs():
        evaluations = curves[curves["run"] == run.name]
        if evaluations.empty:
            continue
        last = evaluations.iloc[-1]
        shares = [float(row[study.metric]) for row in (evaluations.iloc[0], last)]
        questions = int(last["eval/questions"])
        commit = known[run.name].commit[:9] + ("+" if run.row["dirty"] else "")
        cells = [(label(run.block, run.arm), "")]
        cells += [(str(value), "") for value in (run.seed, int(last["step"]), questions)]
        cells += [
            (number(100 * share), f"± {100 * binomial_error(share, questions):.1f}") for share in shares
        ]
        paired = bounds(gains[run.name].interval.scaled(100)) if run.name in gains else ""
        cells += [(number(100 * (shares[1] - shares[0]), sign=True), paired), (commit, "")]
        rows.append([TableCell(text, detail, runs=(run.name,)) for text, detail in cells])
    rows += [_failed_start(run) for run in study.failed_starts]
    return study_table(
        study,
        "before_after",
        "Every run before and after",
        ["arm", "seed", "steps", "questions", "before, %", "after, %", "gain", "commit"],
        rows,
        ["± is the binomial standard error of one evaluation.", *([f"Gains: {HOW}"] if gains else [])],
    )
