"""What a figure says to somebody who does not see it, read off what is drawn."""

from collections.abc import Iterable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

# A label that begins so is no label.
UNLABELLED = "_"


def alt_text(caption: str, figure: Figure) -> str:
    """The caption, and of each panel its title, and what each curve, mark and bar shows."""
    panels = [text for axis in figure.axes if axis.get_visible() and (text := _panel(axis))]
    title = figure.get_suptitle()
    return " ".join([*([f"{title[0].upper()}{title[1:]}."] if title else []), caption, *panels])


def _panel(axis: Axes) -> str:
    # A long title is in lines.
    title = " ".join((axis.get_title("left") or axis.get_ylabel()).split())
    said = [*_lines(axis), *_marks(axis), *_bars(axis), *_notes(axis)]
    over = f" over {axis.get_xlabel()}" if axis.get_xlabel() else ""
    return f"{title}{over}: {'; '.join(said)}." if said else ""


def _lines(axis: Axes) -> Iterator[str]:
    """Each labelled curve from its beginning to its end."""
    for line in axis.get_lines():
        name, values = str(line.get_label()), np.asarray(line.get_ydata(), dtype=float)
        known = values[np.isfinite(values)]
        if not name.startswith(UNLABELLED) and len(known) > 1:
            yield f"{name} from {_short(known[0])} to {_short(known[-1])}"


def _marks(axis: Axes) -> Iterator[str]:
    for marks in axis.collections:
        name = str(marks.get_label())
        if isinstance(marks, PathCollection) and not name.startswith(UNLABELLED):
            points = np.asarray(marks.get_offsets(), dtype=float)
            if len(points) == 1:
                yield f"{name} at {_short(points[0][0])}, {_short(points[0][1])}"
            else:
                yield f"{name} {_listed(points[:, 1])}"


def _bars(axis: Axes) -> Iterator[str]:
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    for bars in axis.containers:
        name = str(bars.get_label())
        if isinstance(bars, BarContainer) and not name.startswith(UNLABELLED):
            heights = [patch.get_height() for patch in bars.patches]
            at = f" ({', '.join(ticks)})" if len(ticks) == len(heights) else ""
            yield f"{name} {_listed(heights)}{at}"


def _notes(axis: Axes) -> Iterator[str]:
    """Numbers that are written beside marks, by the name of their row."""
    names = {
        tick: text.get_text() for tick, text in zip(axis.get_yticks(), axis.get_yticklabels(), strict=False)
    }
    for note in axis.texts:
        height = getattr(note, "xy", (0.0, None))[1]
        yield f"{names.get(height, '')} {note.get_text()}".strip()


def _listed(values: Iterable[float]) -> str:
    return ", ".join(map(_short, values))


def _short(value: float) -> str:
    return f"{float(value):.3g}".replace("-", "−")
