"""The comparison by a hierarchical logistic posterior, beside the verdicts that it is to be held against."""

from analysis.report.study_table import EMPTY, block_heading, study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell, number
from analysis.report.variance_table import samples_of_a_score
from analysis.stats.logistic import logistic_posterior
from analysis.study.study import Study


def posterior_table(study: Study) -> Table:
    """Every arm against the baseline on the logit and in points.

    Raises:
        ValueError: if what is compared is not a share of answers that are known question by question.
    """
    axis, base = study.design.axis, study.design.baseline
    n = max(1, samples_of_a_score(study))
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        rows += block_heading(study, block)
        rows += [_row(study, arm, block, n) for arm in study.arms(block) if arm != base]
    if all(str(cell) == "" for row in rows for cell in row[1:2]):
        raise ValueError("posterior: no two arms have answers question by question with two seeds or more")
    head = [
        f"{axis}, against {base}",
        "logit",
        "points",
        "P(higher)",
        "spread of seeds, logit",
        "verdict by t",
    ]
    foot = [
        f"A second opinion on {study.metric}, no verdict: right answers are binomial, with a normal "
        "difficulty of each question, what the arm changes of it, and each run's luck; Laplace's "
        "approximation, the spread of seeds integrated over a grid. 95% credible intervals; points are "
        "for these questions, the logit for new ones too. Not corrected over comparisons.",
    ]
    return study_table(study, f"posterior_by_{axis}", "A hierarchical logistic posterior", head, rows, foot)


def _row(study: Study, arm: str, block: str, n: int) -> list[TableCell]:
    runs = study.names([arm, study.design.baseline], block)
    ours, theirs = study.pair(arm, block)
    if ours.ndim != 2 or len(ours) < 2:
        return [TableCell(arm, runs=runs), *[EMPTY] * 5]
    made = logistic_posterior(ours, theirs, n)
    verdict = study.differences(block)[arm].verdict()
    return [
        TableCell(arm, runs=runs),
        estimate_cell(made.logit, runs, digits=2, sign=True),
        estimate_cell(made.points.scaled(100), runs, sign=True),
        TableCell(number(made.better, 3), runs=runs),
        TableCell(number(made.seed_spread, 2), runs=runs),
        TableCell(verdict, runs=runs),
    ]
