"""The style of all figures: sizes of type that hold in print, looks of arms, panels, means with bands."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from analysis.data.export import Frame
from analysis.report.colours import COLOURS
from analysis.stats.intervals import mean_interval

# Keyword arguments of matplotlib, whose types are its own.
Style = dict[str, Any]
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Inches: a column of a two-column paper, and the width of its page.
COLUMN, PAGE = 3.3, 6.9
# The same by the name of a width.
INCHES: Mapping[str, float] = {"column": COLUMN, "page": PAGE}
# Points: of labels, and of what stands smaller, at the size at which a figure is printed.
TYPE, SMALL = 8.0, 7.0
LOOK: dict[RcKeyType, object] = {
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.linewidth": 0.7,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    # Letters stay text: PDF holds the font, SVG names it.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
# So many values by step are marked one by one.
FEW_STEPS = 25
SHARES = ("eval/greedy", "eval/pass", "eval/truncated", "completion/truncated")


def look(index: int) -> Style:
    """Colour and line style of the n-th arm, the same in every figure."""
    return {"color": colour_of(index), "ls": STYLES[index % len(STYLES)]}


def colour_of(index: int) -> str:
    """The n-th arm's colour."""
    return COLOURS[index % len(COLOURS)]


def marker_of(index: int) -> str:
    """The n-th arm's marker."""
    return MARKERS[index % len(MARKERS)]


@contextmanager
def styled(width: float = PAGE, type_size: float = TYPE) -> Iterator[None]:
    """The style of every figure.

    Args:
        width: of a figure, in inches.
        type_size: of its labels, in points.
    """
    small = type_size * SMALL / TYPE
    sizes: dict[RcKeyType, object] = {
        "figure.figsize": (width, width / 2),
        "font.size": type_size,
        "axes.titlesize": type_size,
        "axes.labelsize": type_size,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.title_fontsize": small,
    }
    with matplotlib.rc_context({**LOOK, **sizes}):
        yield


def panels(count: int, height: float = 2.3, columns: int = 2, narrow: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the style says, of panels below each other in a paper's column.

    Args:
        count: of panels.
        height: of one, in inches.
        columns: at most so many beside each other where there is room.
        narrow: at most so many in a paper's column.
    """
    width = matplotlib.rcParams["figure.figsize"][0]
    across = min(count, columns if width > COLUMN else narrow)
    down = -(-count // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(width, height * down), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def legend_below(figure: Figure, axis: Axes, title: str = "") -> None:
    """The legend of an axis below all panels, which keep their height; as many columns as there is room for.

    Args:
        figure: the axis' own.
        axis: whose labels are shown.
        title: of the legend.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    size = matplotlib.rcParams["legend.fontsize"]
    # A letter is some 0.6 of its height wide; a line and the gaps beside it are five.
    widest = max(map(len, labels)) * 0.6 * size + 5 * size
    columns = max(1, min(len(labels), int(figure.get_figwidth() * 72 / widest)))
    lines = -(-len(labels) // columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + lines * 1.5 * size / 72)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title or None)


def heading(figure: Figure, text: str) -> None:
    """What all panels of a figure show, above them."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=matplotlib.rcParams["axes.titlesize"])


def difference_band(axis: Axes, gaps: Frame, label: str, index: int) -> None:
    """The mean of gaps[seed, step] with Student's 95% interval, and a line at no difference."""
    steps = np.array(gaps.columns, dtype=float)
    means, lows, highs = np.array([mean_interval(list(gaps[step])) for step in gaps.columns]).T
    axis.axhline(0, color="#555", lw=0.9)
    marker: Style = {"marker": marker_of(index), "ms": 3} if len(steps) <= FEW_STEPS else {}
    axis.plot(steps, means, label=label, **look(index), **marker)
    known = np.isfinite(lows)
    if known.any():
        axis.fill_between(steps[known], lows[known], highs[known], color=colour_of(index), alpha=0.2, lw=0)


def band(
    axis: Axes,
    frame: Frame,
    metric: str,
    label: str,
    index: int,
    scale: float = 1.0,
    *,
    shaded: bool = True,
) -> None:
    """The mean over seeds by step, with Student's 95% interval; a marker where few steps have a value.

    Intervals of shares end at 0 and 100%, those of other metrics where the metric cannot be negative at 0.

    Args:
        axis: to draw on.
        frame: step and metric, a row a run and step.
        metric: its column.
        label: in the legend.
        index: of the arm, for its look.
        scale: what values are multiplied by, 100 for percent.
        shaded: whether the interval is drawn.
    """
    grouped = frame.dropna(subset=[metric]).groupby("step")[metric]
    if not len(grouped):
        return
    steps = np.array(list(grouped.groups), dtype=float)
    means, lows, highs = np.array([mean_interval(list(values * scale)) for _, values in grouped]).T
    marker: Style = {"marker": marker_of(index), "ms": 4} if len(steps) <= FEW_STEPS else {}
    axis.plot(steps, means, label=label, **look(index), **marker)
    known = np.isfinite(lows)
    if shaded and known.any():
        top = scale if metric.startswith(SHARES) else np.inf
        bottom = -np.inf if metric.startswith("reward/") else 0.0
        low, high = (np.clip(side[known], bottom, top) for side in (lows, highs))
        axis.fill_between(steps[known], low, high, color=colour_of(index), alpha=0.13, lw=0)


def smooth(frame: Frame, metric: str, steps: int) -> Frame:
    """Each run's metric averaged over windows of a fortieth of the steps, each at its last step."""
    window = max(1, steps // 40)
    if window == 1:
        return frame
    kept = frame.dropna(subset=[metric]).copy()
    kept["step"] = (kept["step"] + window - 1) // window * window
    return kept.groupby(["run", "arm", "block", "seed", "step"], as_index=False)[metric].mean()
