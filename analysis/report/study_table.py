"""What the tables of a study share: sources and notes, headings of blocks, and the sentences below them."""

from collections.abc import Iterable, Mapping, Sequence

from analysis.report.table_cells import Source, Table, TableCell, estimate_cell
from analysis.stats.intervals import mean_interval, share_interval
from analysis.stats.power import POWER
from analysis.stats.rounding import in_full
from analysis.study.comparison import BOTH, SEEDS, Difference, points
from analysis.study.endpoint import Endpoint
from analysis.study.study import Study

# What an interval of a difference is an interval for, and how it is made.
INTERVALS_OVER: Mapping[str, str] = {
    BOTH: (
        "a run is a seed, all runs answer the same questions; the widest of three t intervals, with seeds "
        "and questions drawn again (Satterthwaite), seeds alone, questions alone"
    ),
    SEEDS: (
        "Student's t over the seeds' differences, questions taken as fixed; where they come in few values, "
        "not surer than the exact sign-flip test"
    ),
}
# What the column on an interval's basis says.
FOR_NEW: Mapping[str, str] = {BOTH: "seeds, questions", SEEDS: "seeds"}
BY_SEED = (
    "Differences seed by seed, Student's 95% interval over seeds; where they come in few values p is that of "
    "the exact sign-flip test, and there is none where it cannot be below 5%. p and verdict after Holm over "
    "the block's comparisons."
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


def basis(
    study: Study,
    differences: Iterable[Difference],
    baseline: str | None = None,
    endpoint: Endpoint | None = None,
) -> str:
    """What the intervals of some differences are over, and what verdicts mean."""
    there = {difference.over for difference in differences}
    kinds = [f"for new {over}: {how}" for over, how in INTERVALS_OVER.items() if over in there]
    margin: str | None = points(study.margin / 100)
    if endpoint is not None and not endpoint.is_share:
        known = study.margin_of(endpoint)
        margin = None if known is None else in_full(known)
    equal = f"Equal within {margin}: two one-sided tests exclude a difference as large. " if margin else ""
    shown = f", or shown to be within {margin}," if margin else ""
    return (
        f"Differences seed by seed from {baseline or study.design.baseline}; 95% intervals, each for itself"
        f"{', ' if kinds else ''}{'; '.join(kinds)}. p and verdict after Holm over the block's comparisons, "
        "arms with the same answers being one. Better or worse: p is below 5%. "
        f"{equal}Undecided: in brackets "
        f"the seeds at which one as seen would be found{shown} with "
        f"{POWER:.0%} power after that correction."
    )


def basis_cell(difference: Difference | None, runs: Sequence[str]) -> TableCell:
    """For what a row's interval of the difference is one."""
    return TableCell(FOR_NEW[difference.over], runs=tuple(runs)) if difference is not None else EMPTY


def levels(study: Study) -> str:
    """What the intervals of a level are over."""
    return (
        f"Levels: mean of the last evaluation's {study.metric} over seeds, "
        "in percent, with Student's 95% interval (Wilson's where all seeds agree)."
    )


def accuracy_name(study: Study) -> str:
    """What a head calls the accuracy that is compared."""
    return study.metric.rpartition("/")[2] if study.by_samples else "accuracy"


def percent_cell(values: Sequence[float], runs: Sequence[str], answers: float | None = None) -> TableCell:
    """The mean of shares over seeds, in percent, with Student's interval, or Wilson's where all are equal.

    Args:
        values: shares, one a seed.
        runs: ids of the runs.
        answers: how many a share is of; None where it is not known.
    """
    return estimate_cell(share_interval(values, answers).scaled(100), runs) if len(values) else DASH


def level_cell(study: Study, arm: str, block: str, metric: str | None = None) -> TableCell:
    """The mean of an arm's last shares over seeds, in percent, with its interval."""
    values, runs = list(study.scores(arm, block, metric).values()), study.names([arm], block)
    return percent_cell(values, runs, study.questions(arm, block, metric))


def mean_cell(values: Sequence[float], runs: Sequence[str], *, digits: int = 1) -> TableCell:
    """The mean over seeds with Student's interval."""
    return estimate_cell(mean_interval(values), runs, digits=digits) if len(values) else DASH
