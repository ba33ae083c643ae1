"""The rows of `mirrorpo.launch.status` for a terminal. Imports no torch.

Thousands of cells are printed as text: a table of rich's takes longer to lay out than the cells take to read.
"""

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.text import Text

from mirrorpo.launch.cell_settings import settings_of, told_apart
from mirrorpo.run.manifest import RunState

COLOURS = {
    RunState.DONE: "green",
    RunState.RUNNING: "cyan",
    RunState.FAILED: "red",
    RunState.STALE: "magenta",
    RunState.REQUEUED: "yellow",
    RunState.INTERRUPTED: "yellow",
    RunState.QUEUED: "yellow",
}


# What the first and the last column of a table have at least.
NARROWEST = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One cell.

    Attributes:
        cell: its folder below the sweep's.
        state: where it is.
        step: the last step on disk.
        steps: of how many.
        left_s: estimated seconds to its end while it runs.
        job: SLURM's id of its last job.
        error: why it failed or is stale.
        log: the file that has the whole story of a failure.
    """

    cell: str
    state: RunState
    step: int
    steps: int | None
    left_s: float | None
    job: str | None
    error: str | None
    log: str | None


def view(
    root: Path, listed: Mapping[Path, Sequence[Row]], problem: str | None, width: int
) -> tuple[str, Text]:
    """A heading, and the cells of a sweep, or a row for each of several sweeps.

    Args:
        root: the folder that was looked at.
        listed: the cells of each sweep.
        problem: why states are those that runs last wrote down; shown in the heading.
        width: of the terminal.
    """
    if len(listed) == 1:
        ((sweep, rows),) = listed.items()
        heading, out = table(sweep, rows, width)
    else:
        heading = f"{root}: {len(listed)} sweeps; give one's folder to see its cells"
        cells = [
            [os.path.relpath(sweep, root), str(len(rows)), counted(rows)] for sweep, rows in listed.items()
        ]
        out = _columns(("sweep", "cells", "states"), cells, [""] * len(cells), width)
    return f"{heading}\n{problem}" if problem else heading, out


def table(sweep: Path, listed: Sequence[Row], width: int) -> tuple[str, Text]:
    """What all rows share, and the rows, for a terminal of a width."""
    shared, labels = shortened([row.cell for row in listed])
    # The seeds of an arm have their settings in one file.
    settings = cache(lambda arm, first: settings_of(first))
    runs = [sweep / row.cell for row in listed]
    of_all, others = told_apart([settings(run.parent, run) for run in runs])
    shared = "\n".join(filter(None, (shared, " ".join(of_all))))
    cells = [
        [
            " ".join([label, *parts]),
            str(row.state),
            f"{row.step}/{row.steps or '?'}",
            duration(row.left_s),
            row.job or "",
            row.error or "",
        ]
        for row, label, parts in zip(listed, labels, others, strict=True)
    ]
    colours = [COLOURS.get(row.state, "") for row in listed]
    out = _columns(("cell", "state", "step", "left", "job", "reason"), cells, colours, width)
    return f"{sweep}: {counted(listed)}" + (f"\n{shared}" if shared else ""), out


def _columns(
    names: Sequence[str], cells: Sequence[Sequence[str]], colours: Sequence[str], width: int
) -> Text:
    """Cells below their names; the first and the last column are folded where there is no room for them.

    Args:
        names: of the columns.
        cells: of each row.
        colours: of each row's second cell.
        width: of the terminal.
    """
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    room = max(width - sum(widths[1:-1]) - 2 * (len(names) - 1), 2 * NARROWEST)
    if widths[0] + widths[-1] > room:
        # Whichever is short gets what it needs.
        widths[0] = min(widths[0], max(room // 2, room - widths[-1]))
        widths[-1] = min(widths[-1], room - widths[0])
    out = Text(no_wrap=True, overflow="ignore")
    for row, colour in zip([names, *cells], ["bold", *colours], strict=True):
        ends = [_folded(row[0], widths[0]), _folded(row[-1], widths[-1])]
        for line in range(max(map(len, ends))):
            first, last = (end[line] if line < len(end) else "" for end in ends)
            middle = row[1:-1] if line == 0 else [""] * (len(names) - 2)
            texts = [text.ljust(size) for text, size in zip([first, *middle, last], widths, strict=True)]
            out.append(f"{texts[0]}  ", style="bold" if colour == "bold" else "")
            out.append(texts[1], style=colour)
            out.append(("  " + "  ".join(texts[2:])).rstrip(), style="bold" if colour == "bold" else "")
            out.append("\n")
    out.right_crop(1)
    return out


def _folded(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False)


def counted(listed: Sequence[Row]) -> str:
    """How many cells are in which state."""
    counts = Counter(row.state for row in listed)
    return ", ".join(f"{counts[state]} {state}" for state in RunState if counts[state])


def shortened(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What all labels share, and each without it.

    >>> shortened(["algo=grpo,divergence=kl/seed=0", "algo=grpo,divergence=none/seed=0"])
    ('algo=grpo seed=0', ['divergence=kl', 'divergence=none'])
    """
    parted = [label.replace("/", ",").split(",") for label in labels]
    shared = (
        [part for part in parted[0] if len(labels) > 1 and all(part in other for other in parted)]
        if parted
        else []
    )
    return " ".join(shared), [
        " ".join(part for part in parts if part not in shared) or label
        for parts, label in zip(parted, labels, strict=True)
    ]


def duration(seconds: float | None) -> str:
    """For people.

    >>> duration(None), duration(42), duration(3 * 3600 + 240)
    ('', '42 s', '3 h 04')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{rest} s"
        if not minutes
        else f"{minutes} min"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d}"
    )
