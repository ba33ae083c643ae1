"""The tables on the last evaluation's accuracy: by arm, by arm and block, and of every run."""

from collections.abc import Mapping

from analysis.report.gains import HOW, Gain
from analysis.report.plan_table import explored
from analysis.report.study_table import (
    EMPTY,
    accuracy_name,
    basis,
    basis_cell,
    block_heading,
    label,
    level_cell,
    levels,
    sources,
    study_table,
)
from analysis.report.table_cells import (
    Table,
    TableCell,
    bounds,
    difference_cells,
    estimate_cell,
    number,
)
from analysis.stats.intervals import wilson_interval
from analysis.stats.paired import probability_of_improvement
from analysis.study.comparison import Difference
from analysis.study.design import Run
from analysis.study.question_scores import GREEDY
from analysis.study.study import Study

OWN_SET = "the runs' own"
TONES = "Bold is better, italic worse, plain equal within the margin or undecided."
BINOMIAL = "± is the binomial standard error of one evaluation; at 0 and 100 the interval is Wilson's."
SAMPLED_LESS = " Sampled answers, several to a question, have at most this error."
HEAD = ("for new", "p", "P(better)", "seeds", "verdict")
FOR_NEW_FOOT = (
    "For new: what the row's interval and p take for a sample. P(better): share of seeds with which the arm "
    "beats the baseline, ties half."
)
GREEDY_HEAD = ("greedy, %", "greedy difference")
GREEDY_FOOT = "Greedy: one answer to each question at temperature 0, beside it; no verdict rests on it."


def accuracy(study: Study, baseline: str | None = None) -> Table:
    """Accuracy by arm, its difference from the baseline, and the verdict.

    Args:
        study: the runs.
        baseline: the arm to measure from; else the study's, and then the table's name does not say it.
    """
    axis, base = study.design.axis, baseline or study.design.baseline
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    for block in study.design.blocks:
        differences = study.differences(block, baseline=base)
        every += differences.values()
        arms = sorted(study.arms(block), key=lambda arm: arm != base)
        rows += block_heading(study, block)
        rows += [_accuracy_row(study, arm, base, block, differences.get(arm)) for arm in arms]
    name = f"accuracy_by_{axis}" + (f"_from_{base}" if baseline else "")
    title = f"Accuracy by {axis}" + (f", measured from {base}" if baseline else "")
    head = [axis, f"{accuracy_name(study)}, %", f"difference from {base}", *HEAD]
    foot = [levels(study), basis(study, every, base), FOR_NEW_FOOT]
    if study.by_samples:
        head += GREEDY_HEAD
        foot.append(GREEDY_FOOT)
    foot += [*family(study), *explored(study)]
    if study.of_set:
        name, title = f"{name}_on_{study.of_set}", f"{title}, on {study.of_set}"
    return study_table(study, name.replace(" ", "_"), title, head, rows, foot)


def family(study: Study) -> list[str]:
    """Why this accuracy is compared, and which comparisons p is corrected over, where there is a choice."""
    out = [f"Verdicts rest on {study.reason}."] if study.by_samples and study.reason else []
    if study.export.sets:
        out.append(
            f"Evaluation set: {study.of_set or OWN_SET}. Each set is a family of its own: p is corrected "
            "over the comparisons of a block on this set, and not over sets."
        )
    return out


def _accuracy_row(
    study: Study, arm: str, base: str, block: str, difference: Difference | None
) -> list[TableCell]:
    arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
    if arm != base and difference is None:
        gap, p, verdict = TableCell("no common seed", tone="quiet"), EMPTY, EMPTY
    else:
        gap, p, verdict = difference_cells(difference, pair_runs)
    chance = EMPTY
    if difference is not None:
        improvement = probability_of_improvement(*study.pair(arm, block, baseline=base))
        chance = TableCell(number(improvement.estimate, 2), runs=pair_runs)
    seeds = TableCell(str(len(study.scores(arm, block))), runs=arm_runs)
    mark = "(primary)" if difference is not None and difference.primary else ""
    row = [TableCell(arm, mark, runs=arm_runs), level_cell(study, arm, block), gap]
    row += [basis_cell(difference, pair_runs), p, chance, seeds, verdict]
    return row + (_greedy_cells(study, arm, base, block) if study.by_samples else [])


def _greedy_cells(study: Study, arm: str, base: str, block: str) -> list[TableCell]:
    """The level and the difference of greedy answers."""
    pair_runs, greedy = study.names([arm, base], block), study.beside(GREEDY)
    level = level_cell(study, arm, block, greedy)
    differences = {} if arm == base else study.differences(block, greedy, base)
    if arm not in differences:
        return [level, EMPTY]
    return [level, estimate_cell(differences[arm].interval.scaled(100), pair_runs, sign=True)]


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
            level.append(level_cell(study, arm, block))
            gap.append(toned_difference(study, arm, block, differences[block].get(arm)))
        rows += [level] if arm == base else [level, gap]
    foot = [
        levels(study),
        basis(study, [difference for block in blocks for difference in differences[block].values()]),
        TONES,
    ]
    others = study.design.others
    title = f"Accuracy by {axis} and {', '.join(others)}"
    return study_table(study, f"{axis}_by_{'_'.join(others)}", title, [axis, *blocks], rows, foot)


def toned_difference(study: Study, arm: str, block: str, difference: Difference | None) -> TableCell:
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


def _one_evaluation(share: float, questions: int) -> str:
    """The error of a share of so many answers; at 0 and 1, where it would be none, the interval."""
    if 0 < share < 1:
        return f"± {100 * binomial_error(share, questions):.1f}"
    return bounds(wilson_interval(share, questions).scaled(100))


def _failed_start(run: Run) -> list[TableCell]:
    """The row of a run that has no numbers."""
    reason = str(run.row["error"] or "no reason").splitlines()[0]
    texts = [label(run.block, run.arm), str(run.seed), "0", "", "failed", "", "", reason[:60]]
    return [TableCell(text) for text in texts]


def before_after(study: Study, gains: Mapping[str, Gain] | None = None) -> Table:
    """Accuracy of every run at its first and its last evaluation.

    The errors are of one evaluation each: binomial of greedy answers, of sampled ones at most that. Both
    evaluations ask the same questions, so they do not add up to the error of the gain.

    Args:
        study: the runs.
        gains: by run, whose intervals stand beside the gain. A comparison does without: its intervals are
            those of differences between arms.
    """
    gains, asked = gains or {}, study.beside("questions")
    curves = study.curve(study.metric, asked).dropna()
    rows: list[list[TableCell]] = []
    known = sources(study)
    for run in study.ordered_runs():
        evaluations = curves[curves["run"] == run.name]
        if evaluations.empty:
            continue
        last = evaluations.iloc[-1]
        shares = [float(row[study.metric]) for row in (evaluations.iloc[0], last)]
        questions = int(last[asked])
        commit = known[run.name].commit[:9] + ("+" if run.row["dirty"] else "")
        cells = [(label(run.block, run.arm), "")]
        cells += [(str(value), "") for value in (run.seed, int(last["step"]), questions)]
        cells += [(number(100 * share), _one_evaluation(share, questions)) for share in shares]
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
        [BINOMIAL + (SAMPLED_LESS if study.by_samples else ""), *([f"Gains: {HOW}"] if gains else [])],
    )
