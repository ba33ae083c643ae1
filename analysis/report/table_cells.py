"""A table whose cells know the runs they come from; `analysis.report.render` writes it out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from analysis.stats.intervals import Interval
from analysis.study.comparison import BETTER, CLAIMS, WORSE, Difference

TONED = (BETTER, WORSE)


@dataclass(frozen=True, slots=True)
class TableCell:
    """What stands in one place of a table.

    Attributes:
        text: the value.
        detail: what stands smaller beside it, such as an interval.
        tone: "better", "worse" or "quiet"; "" for none.
        runs: ids of the runs that it was computed from.
    """

    text: str
    detail: str = ""
    tone: str = ""
    runs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run is and what made it."""

    commit: str
    config_hash: str
    place: str


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its files.
        title: one line.
        head: of the columns; the first column is text, the others are numbers.
        rows: as many cells each as there are columns; a row of one cell is a heading within the table.
        foot: sentences below it; a page folds all but the first.
        notes: what was allowed and has to be seen.
        sources: of every run in it.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    foot: Sequence[str] = ()
    notes: Sequence[str] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) in (1, len(self.head)), (
                f"{self.name}: {len(row)} cells under {len(self.head)} heads"
            )

    @property
    def runs(self) -> tuple[str, ...]:
        """All runs behind it, in the order of their first cell."""
        return tuple(dict.fromkeys(run for row in self.rows for cell in row for run in cell.runs))

    def with_columns(self, columns: Sequence[str]) -> "Table":
        """The first column and those that are named, in that order: by their head or how one begins.

        Raises:
            ValueError: if no column is named so, or several are.
        """
        places = [0]
        for name in columns:
            matching = [place for place, head in enumerate(self.head) if head == name]
            matching = matching or [place for place, head in enumerate(self.head) if head.startswith(name)]
            if len(matching) != 1:
                count = "more than one column" if matching else "no column"
                heads = "; ".join(self.head)
                raise ValueError(f"columns={name}: of {self.name} {count} begins so; they are {heads}")
            places += [matching[0]] if matching[0] not in places else []
        rows = [row if len(row) == 1 else [row[place] for place in places] for row in self.rows]
        return replace(self, head=[self.head[place] for place in places], rows=rows)

    def commits(self, runs: Sequence[str]) -> list[str]:
        """The commits of some of its runs, shortened."""
        return sorted({self.sources[run].commit for run in runs if run in self.sources})

    def traced(self) -> str:
        """JSON: for every cell its text, its runs, their commits and config hashes."""
        cells = [
            {
                "row": str(row[0]),
                "column": head,
                "text": str(cell),
                "runs": list(cell.runs),
                "commits": self.commits(cell.runs),
            }
            for row in self.rows
            for head, cell in zip(self.head, row, strict=False)
        ]
        sources = {run: asdict(source) for run, source in self.sources.items() if run in self.runs}
        return json.dumps({"table": self.name, "cells": cells, "runs": sources}, indent=1) + "\n"


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """A number with a true minus; a dash where there is none.

    Example:
        >>> number(-0.04), number(2.5, sign=True), number(float("nan"))
        ('0.0', '+2.5', '—')
    """
    if value != value:
        return "—"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def bounds(interval: Interval, digits: int = 1) -> str:
    """The interval alone; nothing where it is unbounded."""
    if interval.low == float("-inf") or interval.high == float("inf") or interval.low != interval.low:
        return ""
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def estimate_cell(
    interval: Interval, runs: Sequence[str], *, digits: int = 1, sign: bool = False, tone: str = ""
) -> TableCell:
    """An estimate with its interval beside it."""
    return TableCell(number(interval.estimate, digits, sign), bounds(interval, digits), tone, tuple(runs))


def difference_cells(
    difference: Difference | None,
    runs: Sequence[str],
    *,
    scale: float = 100,
    digits: int = 1,
) -> tuple[TableCell, TableCell, TableCell]:
    """The difference with its interval, Holm's p, and the verdict.

    Args:
        difference: of an arm from the baseline; None for the baseline itself.
        runs: ids of the runs of both.
        scale: what the difference is multiplied by, 100 for points.
        digits: after the decimal point.
    """
    if difference is None:
        return TableCell("baseline", tone="quiet"), TableCell(""), TableCell("")
    verdict = difference.verdict()
    claimed = verdict in CLAIMS
    size = f"(by less than {difference.bound})" if claimed and difference.bound else ""
    return (
        estimate_cell(difference.interval.scaled(scale), runs, digits=digits, sign=True),
        _adjusted_cell(difference, runs),
        TableCell(verdict, size, tone=verdict if verdict in TONED else "quiet", runs=tuple(runs)),
    )


def _adjusted_cell(difference: Difference, runs: Sequence[str]) -> TableCell:
    """Holm's p; where it cannot be below the level, why there is none."""
    if difference.n < 2:
        return TableCell("—", runs=tuple(runs))
    if not difference.possible:
        return TableCell("—", f"(not below 5% with {difference.n} seeds that tie)", runs=tuple(runs))
    return TableCell(p_value(difference.adjusted), runs=tuple(runs))


def p_value(p: float) -> str:
    """A p-value as papers print it.

    Example:
        >>> p_value(0.0004), p_value(0.0321), p_value(0.4)
        ('<0.001', '0.032', '0.40')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
