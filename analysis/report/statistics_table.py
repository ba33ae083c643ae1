"""Every statistic of the comparison, for whoever prefers another one."""

import math

import numpy as np
from numpy.typing import NDArray

from analysis.report.study_table import DASH, EMPTY, block_heading, study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell, number, p_value
from analysis.stats.bootstrap import hierarchical_bootstrap, stratified_bootstrap
from analysis.stats.corrections import benjamini_hochberg
from analysis.stats.intervals import iqm, mean_interval, spread_interval
from analysis.stats.paired import mcnemar, paired_bootstrap, probability_of_improvement
from analysis.stats.power import detectable, rounded_seeds, seeds_needed
from analysis.study.comparison import Difference
from analysis.study.study import Study

DRAWS = 2000
HEAD = (
    "interquartile mean, %",
    "standard deviation",
    "both-level bootstrap",
    "P(better)",
    "McNemar, seeds with p<.05",
    "question bootstrap p",
    "p",
    "Holm p",
    "BH q",
    "seeds wanted",
    "seen with 80% power",
)
FOOT = (
    "Interquartile mean: stratified bootstrap over seeds; standard deviation: over seeds, chi-square "
    "interval; both-level bootstrap: seeds and questions drawn again. Over five seeds the first is too "
    "narrow and the last too wide (docs/analysis.md has the coverage); verdicts rest on the t intervals. "
    "P(better): share of seeds with which the arm beats the baseline, Wilson's interval.",
    "McNemar compares two checkpoints, and the question bootstrap the seeds' mean answer: neither knows "
    "that other seeds would train other checkpoints.",
    "Seeds wanted: for 80% power at the difference seen, by a paired t test without correction, rounded to "
    "two digits; seen with 80% power: the smallest difference, in points, at these seeds.",
)


def statistics(study: Study) -> Table:
    """Every statistic of the comparison, a row an arm."""
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        differences = study.differences(block)
        q_values = benjamini_hochberg([difference.p for difference in differences.values()])
        q = dict(zip(differences, q_values, strict=True))
        rows += block_heading(study, block)
        for arm in study.arms(block):
            row = _level_cells(study, arm, block)
            if arm not in differences:
                rows.append([*row, *[EMPTY] * (1 + len(HEAD) - len(row))])
                continue
            pair_runs = study.names([arm, base], block)
            chance = estimate_cell(probability_of_improvement(*study.pair(arm, block)), pair_runs, digits=2)
            both_levels, tests, by_question = _question_cells(*study.pair(arm, block), pair_runs)
            row += [both_levels, chance, tests, by_question]
            row += [TableCell(text, runs=pair_runs) for text in _p_and_power(differences[arm], q[arm])]
            rows.append(row)
    foot = [f"Differences are from {base}. {FOOT[0]}", *FOOT[1:]]
    return study_table(study, f"statistics_{axis}", f"Every statistic, by {axis}", [axis, *HEAD], rows, foot)


def _level_cells(study: Study, arm: str, block: str) -> list[TableCell]:
    """An arm's name, interquartile mean and spread."""
    runs = study.names([arm], block)
    values = np.array(list(study.scores(arm, block).values()))
    middle = mean_interval([math.nan])
    if len(values):
        middle = stratified_bootstrap(values[:, None], iqm, draws=DRAWS)
    return [
        TableCell(arm, runs=runs),
        estimate_cell(middle.scaled(100), runs),
        estimate_cell(spread_interval(list(values)).scaled(100), runs),
    ]


def _question_cells(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], runs: tuple[str, ...]
) -> tuple[TableCell, TableCell, TableCell]:
    """Bootstrap over both levels, McNemar's tests, bootstrap over questions; dashes without questions."""
    if ours.ndim != 2:
        return DASH, DASH, DASH
    both_levels = estimate_cell(hierarchical_bootstrap(ours - theirs).scaled(100), runs, sign=True)
    significant = DASH
    # McNemar's test is of answers that are right or wrong, not of lengths.
    if set(np.unique(np.concatenate([ours, theirs]))) <= {0.0, 1.0}:
        tests = [mcnemar(our_run, their_run) for our_run, their_run in zip(ours, theirs, strict=True)]
        significant = TableCell(f"{sum(test.p < 0.05 for test in tests)} of {len(tests)}", runs=runs)
    by_question = p_value(paired_bootstrap(ours.mean(axis=0), theirs.mean(axis=0)).p)
    return both_levels, significant, TableCell(by_question, runs=runs)


def _p_and_power(difference: Difference, q: float) -> list[str]:
    """p, Holm's p, q, the seeds that the difference would take, and the difference that these seeds find."""
    spread = difference.spread
    # Without a spread (one seed, or seeds that all agree) neither is known.
    wanted, smallest = "—", math.nan
    if spread > 0:
        wanted = rounded_seeds(seeds_needed(difference.interval.estimate / spread))
        smallest = detectable(difference.n) * spread * 100
    return [
        p_value(difference.p),
        p_value(difference.adjusted),
        p_value(q),
        wanted,
        number(smallest),
    ]
