"""The style of all figures: colours that colour-blind readers tell apart, panels, means with bands."""

from collections.abc import Iterator
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
from analysis.stats.intervals import mean_interval

# Keyword arguments of matplotlib, whose types are its own.
Style = dict[str, Any]
# Okabe and Ito's colours; line styles and markers say the same in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LOOK: dict[RcKeyType, object] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 110,
    "savefig.dpi": 170,
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
def styled() -> Iterator[None]:
    """The style of every figure."""
    with matplotlib.rc_context(LOOK):
        yield


def panels(
    count: int, width: float = 4.6, height: float = 3.1, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """A figure of some panels, at most `columns` beside each other."""
    across = min(count, columns)
    down = -(-count // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(width * across, height * down), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def band(axis: Axes, frame: Frame, metric: str, label: str, index: int, scale: float = 1.0) -> None:
    """The mean over seeds by step, with Student's 95% interval; a marker where few steps have a value.

    Intervals of shares end at 0 and 100%, those of other metrics where the metric cannot be negative at 0.

    Args:
        axis: to draw on.
        frame: step and metric, a row a run and step.
        metric: its column.
        label: in the legend.
        index: of the arm, for its look.
        scale: what values are multiplied by, 100 for percent.
    """
    grouped = frame.dropna(subset=[metric]).groupby("step")[metric]
    if not len(grouped):
        return
    steps = np.array(list(grouped.groups), dtype=float)
    means, lows, highs = np.array([mean_interval(list(values * scale)) for _, values in grouped]).T
    marker: Style = {"marker": marker_of(index), "ms": 4} if len(steps) <= FEW_STEPS else {}
    axis.plot(steps, means, label=label, **look(index), **marker)
    known = np.isfinite(lows)
    if known.any():
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
