"""What the tables of a study share: sources and notes, headings of blocks, and the sentences below them."""

from collections.abc import Mapping, Sequence

from analysis.report.table_cells import Source, Table, TableCell, estimate_cell
from analysis.stats.intervals import mean_interval
from analysis.stats.power import POWER
from analysis.study.comparison import Difference
from analysis.study.study import Study

# What an interval of a difference is an interval for, and how it is made.
INTERVALS_OVER: Mapping[str, str] = {
    "seeds and questions": (
        "a run is a seed, all runs answer the same questions; t interval with both "
        "drawn again (Satterthwaite)"
    ),
    "seeds": "Student's t over the seeds' differences; questions are taken as fixed",
}
BY_SEED = (
    "Differences seed by seed, Student's 95% interval over seeds; "
    "p and verdict after Holm over the block's comparisons."
)
EMPTY, DASH = TableCell(""), TableCell("—")


def sources(study: Study) -> Mapping[str, Source]:
    """Where every run of a study is, and its commit."""
    return {
        run.name: Source(
            str(run.row["commit"]) + ("+" if run.row["dirty"] else ""),
            str(run.row["config_hash"]),
            str(run.row["source"]),
        )
        for run in study.design.runs
    }


def study_table(
    study: Study,
    name: str,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[TableCell]],
    foot: Sequence[str],
) -> Table:
    """A table with the study's sources and its notes."""
    return Table(name, title, head, rows, foot, study.notes, sources(study))


def label(*parts: str) -> str:
    """What is not empty, such as a block and an arm, with commas between."""
    return ", ".join(filter(None, parts))


def block_heading(study: Study, block: str) -> list[list[TableCell]]:
    """The row above a block, where there are several."""
    if not block:
        return []
    axes = "/".join(study.design.others)
    return [[TableCell(f"{axes}: {block}" if axes else block)]]


def basis(study: Study, differences: Mapping[str, Difference], baseline: str | None = None) -> str:
    """What the intervals of a difference are over."""
    over = next(iter(differences.values())).over if differences else "seeds"
    return (
        f"Differences seed by seed from {baseline or study.design.baseline}; 95% intervals, each for itself, "
        f"for new {over}: {INTERVALS_OVER[over]}. p and verdict after Holm over the block's comparisons; in "
        f"brackets the seeds at which a difference as large as the one seen would be found with {POWER:.0%} "
        "power."
    )


def levels(study: Study) -> str:
    """What the intervals of a level are over."""
    return (
        f"Levels: mean of the last evaluation's {study.metric} over seeds, "
        "in percent, with Student's 95% interval."
    )


def accuracy_name(study: Study) -> str:
    """What a head calls the accuracy that is compared."""
    return study.metric.rpartition("/")[2] if study.by_samples else "accuracy"


def percent_cell(values: Sequence[float], runs: Sequence[str]) -> TableCell:
    """The mean of shares over seeds, in percent, with Student's interval, which ends at 0 and 100."""
    return estimate_cell(mean_interval(values).within(0, 1).scaled(100), runs) if len(values) else DASH


def mean_cell(values: Sequence[float], runs: Sequence[str], *, digits: int = 1) -> TableCell:
    """The mean over seeds with Student's interval."""
    return estimate_cell(mean_interval(values), runs, digits=digits) if len(values) else DASH
