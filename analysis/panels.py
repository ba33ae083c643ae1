"""The style of all figures: colours that colour-blind readers tell apart, panels, and means over seeds with
their bands.
"""

from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from analysis.export import Frame
from analysis.stats import mean_interval

# Okabe and Ito's colours; line styles and markers say the same in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LOOK: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "grid.linewidth": 0.6, "lines.linewidth": 1.6, "legend.frameon": False, "legend.fontsize": 8.5, "figure.dpi": 110,
    "savefig.dpi": 170, "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip
SHARES = ("eval/greedy", "eval/pass", "eval/truncated", "completion/truncated")


def look(index: int) -> dict[str, Any]:
    """Colour and line style of the n-th arm, the same in every figure."""
    return {"color": COLOURS[index % len(COLOURS)], "ls": STYLES[index % len(STYLES)]}


@contextmanager
def styled() -> Any:
    """The style of every figure."""
    with matplotlib.rc_context(LOOK):
        yield


def panels(count: int, width: float = 4.6, height: float = 3.1, columns: int = 2) -> tuple[Figure, list[Any]]:
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


def band(axis: Any, frame: Frame, metric: str, label: str, index: int, scale: float = 1.0) -> None:
    """The mean over seeds by step, with Student's 95% interval; a marker where few steps have a value.

    Intervals of shares end at 0 and 100%, those of other metrics where the metric cannot be negative at 0.
    """
    grouped = frame.dropna(subset=[metric]).groupby("step")[metric]
    if not len(grouped):
        return
    steps = np.array(list(grouped.groups), dtype=float)
    found = [mean_interval(list(values * scale)) for _, values in grouped]
    marker = {"marker": MARKERS[index % len(MARKERS)], "ms": 4} if len(steps) <= 25 else {}
    axis.plot(steps, [one.estimate for one in found], label=label, **look(index), **marker)
    known = np.array([np.isfinite(one.low) for one in found])
    if known.any():
        top = scale if metric.startswith(SHARES) else np.inf
        bottom = -np.inf if metric.startswith("reward/") else 0.0
        low, high = (
            np.clip(np.array([getattr(one, side) for one in found])[known], bottom, top)
            for side in ("low", "high")
        )
        axis.fill_between(steps[known], low, high, color=look(index)["color"], alpha=0.13, lw=0)


def smooth(frame: Frame, metric: str, steps: int) -> Frame:
    """Each run's metric averaged over windows of steps, at their last step; few steps are left as they are."""
    window = max(1, steps // 40)
    if window == 1:
        return frame
    kept = frame.dropna(subset=[metric]).copy()
    kept["step"] = (kept["step"] + window - 1) // window * window
    return kept.groupby(["run", "arm", "block", "seed", "step"], as_index=False)[metric].mean()
