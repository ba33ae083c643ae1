"""The papers' numbers beside ours."""

from dataclasses import dataclass

from analysis.data import paper
from analysis.report.study_table import (
    EMPTY,
    basis,
    basis_cell,
    block_heading,
    level_cell,
    levels,
    study_table,
)
from analysis.report.table_cells import Table, TableCell, difference_cells, number
from analysis.stats.intervals import Interval
from analysis.study.comparison import Difference
from analysis.study.study import Study

QUANTITIES = ("accuracy", "pass@1", "gain")
HEAD = (
    "published",
    "published difference",
    "ours, %",
    "our difference",
    "published lies",
    "for new",
    "p",
    "seeds",
    "verdict",
)


@dataclass(frozen=True)
class PublishedArm:
    """What the papers print of an arm.

    Attributes:
        value: its number; None where there is none.
        gain: its difference from the baseline in points, low and high, with its mark; None where not known.
        benchmark: what it was measured on; "" where there is no number.
    """

    value: paper.Published | None
    gain: tuple[float, float, str] | None
    benchmark: str

    @property
    def level(self) -> str:
        """The number as it is printed, a dash where only a gain is."""
        return str(self.value) if self.value and self.value.quantity != "gain" else "—"

    @property
    def difference(self) -> str:
        """The difference as it is printed, in words where there are only words."""
        if self.gain is not None:
            low, high, mark = self.gain
            upper = "" if low == high else f" to {number(high, 1, True)}"
            return f"{number(low, 1, True)}{upper} [{mark}]"
        return str(self.value) if self.value and self.value.quantity == "gain" else "—"


def papers(study: Study) -> Table | None:
    """The papers' numbers beside ours; None where no arm is one of theirs."""
    axis = study.design.axis
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    benchmarks: set[str] = set()
    for block in study.design.blocks:
        differences = study.differences(block)
        every += differences.values()
        by_arm = {arm: _published(study, arm, block) for arm in study.arms(block)}
        published = {arm: theirs for arm, theirs in by_arm.items() if theirs is not None}
        benchmarks |= {theirs.benchmark for theirs in published.values() if theirs.benchmark}
        if len(published) > 1:
            rows += block_heading(study, block)
            rows += [_row(study, arm, block, theirs, differences) for arm, theirs in published.items()]
    if not rows or not benchmarks:
        return None
    datasets, models = (
        ", ".join(sorted({str(run.row[name]) for run in study.design.runs})) for name in ("dataset", "model")
    )
    which = paper.GBMPO if axis == "divergence" else paper.COUNTERFACTUAL
    marks = "; ".join(f"{mark} {meaning}" for mark, meaning in paper.MARKS.items())
    foot = [
        f"Published: {', '.join(sorted(benchmarks))}, arXiv {which}; ours: {datasets}, {models}. "
        "Differences may be set beside each other; levels of another data set and model may not.",
        f"Marks: {marks}. 'Inside' and 'outside' are of our 95% interval.",
        levels(study),
        basis(study, every),
    ]
    title = f"The published numbers and ours, by {axis}"
    return study_table(study, f"papers_{axis}", title, [axis, *HEAD], rows, foot)


def _published(study: Study, arm: str, block: str) -> PublishedArm | None:
    axis, base = study.design.axis, study.design.baseline
    run = next(iter(study.runs(arm, block).values()))
    choice, dataset = str(run.row[axis]), str(run.row["dataset"])
    if paper.canonical(choice) is None or dataset not in paper.TWINS:
        return None
    values = (paper.published(axis, choice, dataset, quantity) for quantity in QUANTITIES)
    value = next((value for value in values if value), None)
    gain = paper.gain(axis, choice, study.design.choices[base], dataset) if arm != base else None
    return PublishedArm(value, gain, paper.BENCHMARKS[paper.TWINS[dataset]] if value else "")


def _row(
    study: Study, arm: str, block: str, published: PublishedArm, differences: dict[str, Difference]
) -> list[TableCell]:
    base = study.design.baseline
    arm_runs, pair_runs = study.names([arm], block), study.names([arm, base], block)
    gap, p, verdict = difference_cells(differences.get(arm), pair_runs)
    lies = EMPTY
    if published.gain is not None and arm in differences:
        lies = TableCell(
            _inside_or_outside(published.gain, differences[arm].interval.scaled(100)), runs=pair_runs
        )
    return [
        TableCell(arm, runs=arm_runs),
        TableCell(published.level),
        TableCell("" if arm == base else published.difference),
        level_cell(study, arm, block),
        gap,
        lies,
        basis_cell(differences.get(arm), pair_runs),
        p,
        TableCell(str(len(study.scores(arm, block))), runs=arm_runs),
        verdict,
    ]


def _inside_or_outside(gain: tuple[float, float, str], ours: Interval) -> str:
    low, high, _ = gain
    return "inside" if ours.low <= high and low <= ours.high else "outside"
