"""Area under a training curve by arm, and what a sweep was expected to show, as tables."""

from collections.abc import Sequence

from analysis.report.study_table import EMPTY, study_table
from analysis.report.table_cells import Table, TableCell, bounds, estimate_cell, number
from analysis.stats.intervals import mean_interval
from analysis.study.area import Areas, holds
from analysis.study.endpoint import OF_EVALUATIONS
from analysis.study.statement import Statement
from analysis.study.study import Study

DIGITS = 3


def area_table(study: Study, areas: Areas) -> Table:
    """Areas by arm and their differences from the baseline, from the largest."""
    base = study.design.baseline
    means = {arm: mean_interval(list(by_seed.values())) for arm, by_seed in areas.by_arm.items()}
    rows: list[list[TableCell]] = []
    for arm in sorted(means, key=lambda arm: -means[arm].estimate):
        runs = study.names([arm])
        gap = EMPTY
        if arm != base and base in areas.by_arm:
            interval = areas.difference(arm, base)
            gap = estimate_cell(interval, [*runs, *study.names([base])], digits=DIGITS, sign=True)
        seeds = TableCell(str(len(areas.by_arm[arm])))
        rows.append([TableCell(arm), estimate_cell(means[arm], runs, digits=DIGITS), gap, seeds])
    how = f"Mean of {areas.metric} over the steps of a run"
    if areas.metric.startswith(OF_EVALUATIONS):
        how = f"Area under {areas.metric} over the range of its steps, linear between evaluations"
    foot = [
        f"{how}. 95% intervals are Student's over seeds, of a "
        "difference seed by seed; each is for itself, without a correction over arms."
    ]
    head = [study.design.axis, "area", f"from {base}", "seeds"]
    return study_table(study, f"area_{study.design.axis}", f"Area under {areas.metric}", head, rows, foot)


def expectation_table(study: Study, areas: Areas, expected: Sequence[Statement]) -> tuple[Table, bool]:
    """Each expectation beside what was measured, and whether all hold."""
    rows: list[list[TableCell]] = []
    outcomes: list[bool] = []
    for expectation in expected:
        gap = areas.difference(expectation.arm, expectation.other)
        outcomes.append(holds(expectation, gap))
        measured = f"{number(gap.estimate, DIGITS, True)} {bounds(gap, DIGITS)}".strip()
        cells = [str(expectation), measured, "holds" if outcomes[-1] else "FAILS"]
        rows.append([TableCell(cell) for cell in cells])
    foot = [
        "A > B: the 95% interval of A - B lies above zero; A < B: below it; A !> B: not above; A !< B: not "
        "below."
    ]
    head = ["expected", "measured", "outcome"]
    return study_table(study, "expected", "Expected and measured", head, rows, foot), all(outcomes)
