"""Over-optimisation as a table and a figure: proxy and gold reward against drift from the start model."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.report.curve_figures import Names
from analysis.report.figure_style import colour_of, legend_below, look, marker_of, panels
from analysis.report.study_table import block_heading, label, study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell
from analysis.stats.intervals import mean_interval
from analysis.study.over_optimisation import GOLD, PROXY, WINDOWS, Course, courses
from analysis.study.study import DRIFT, Study

DIGITS = 3
MEANS = ". Means over seeds with Student's 95% interval, each for itself"
PEAK_OF_OTHERS = (
    "The peak of a seed is the window in which the other seeds' mean gold is highest, so that no seed is "
    "read where its own luck is."
)
PEAK_OF_ITS_OWN = (
    "The peak of an arm with one seed is where its own gold is highest, which counts its luck; there is no "
    "interval."
)
AXIS = "√KL(policy, start model), KL in nats"


def over_optimisation_table(study: Study) -> Table | None:
    """By arm gold at its peak, drift there, and both rewards at the end; None without a gold reward."""
    rows: list[list[TableCell]] = []
    seeds: list[int] = []
    for block in study.design.blocks:
        made = courses(study, block)
        seeds += [len(course.seeds) for course in made.values()]
        rows += block_heading(study, block) if made else []
        rows += [_row(arm, course, study.names([arm], block)) for arm, course in made.items()]
    if not rows:
        return None
    foot = [
        f"Proxy is {PROXY}, gold {GOLD}, drift the square root of {DRIFT}, each a mean over windows of a "
        f"{WINDOWS}th of the steps{MEANS if max(seeds) > 1 else ''}.",
        " ".join(_peaks(seeds)),
    ]
    head = [
        study.design.axis, "gold at its peak", "drift there", "step there", "gold at the end",
        "lost since the peak", "proxy at the end", "drift at the end", "seeds",
    ]  # fmt: skip
    title = "Over-optimisation: proxy and gold reward against drift"
    return study_table(study, f"over_optimisation_{study.design.axis}", title, head, rows, foot)


def _peaks(seeds: Sequence[int]) -> list[str]:
    """How the peaks were found, with so many seeds of each arm."""
    several = [PEAK_OF_OTHERS] if max(seeds) > 1 else []
    alone = [PEAK_OF_ITS_OWN] if min(seeds) < 2 else []
    ranges = ", the range over seeds" if several else ""
    lost = ", seed by seed" if several else ""
    steps = (
        f"Steps are the windows' last{ranges}. What is lost is gold at the peak less gold at the end{lost}."
    )
    return [*several, *alone, steps]


def _row(arm: str, course: Course, runs: tuple[str, ...]) -> list[TableCell]:
    low, high = min(course.peak_steps), max(course.peak_steps)
    intervals = [
        course.at_peak(course.gold),
        course.at_peak(course.distance),
        course.at_end(course.gold),
        course.lost,
        course.at_end(course.proxy),
        course.at_end(course.distance),
    ]
    cells = [estimate_cell(interval, runs, digits=DIGITS) for interval in intervals]
    steps = TableCell(str(low) if low == high else f"{low} to {high}", runs=runs)
    return [TableCell(arm), *cells[:2], steps, *cells[2:], TableCell(str(len(course.seeds)))]


def over_optimisation(study: Study, names: Names | None = None) -> Figure | None:
    """Proxy and gold reward against drift, a path an arm with its band; None without a gold reward."""
    made = {block: courses(study, block) for block in study.design.blocks}
    made = {block: by_arm for block, by_arm in made.items() if by_arm}
    if not made:
        return None
    figure, axes = panels(2 * len(made), 2.6)
    for (block, by_arm), pair in zip(made.items(), zip(axes[::2], axes[1::2], strict=True), strict=True):
        for title, axis in zip(
            (
                "proxy reward, trained on",
                "gold reward",
            ),
            pair,
            strict=True,
        ):
            for arm, course in by_arm.items():
                values = course.gold if axis is pair[1] else course.proxy
                index = study.design.arms.index(arm)
                _path(axis, course.distance, values, (names or {}).get(arm, arm), index)
            axis.set(title=label(title, block), xlabel=AXIS)
    legend_below(figure, axes[0], study.design.axis)
    return figure


def _path(
    axis: Axes, distance: NDArray[np.float64], values: NDArray[np.float64], name: str, index: int
) -> None:
    """Means over seeds in the order of training, with the reward's interval; the end is marked."""
    places = distance.mean(axis=0)
    means, lows, highs = np.array([mean_interval(column) for column in values.T]).T
    axis.plot(places, means, label=name, **look(index))
    axis.plot(places[-1:], means[-1:], marker_of(index), color=colour_of(index), ms=4.5, label="_end")
    if np.isfinite(lows).all():
        axis.fill_between(places, lows, highs, color=colour_of(index), alpha=0.13, lw=0)
