"""Figures of a study, as PDF, SVG and PNG, at the widths of a paper's column and page."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypedDict

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.data.export import Frame
from analysis.data.shown_completions import shown_completions, shown_steps
from analysis.report.alt_text import alt_text
from analysis.report.curve_figures import Names, accuracy_differences, learning, length, reward_differences
from analysis.report.figure_forms import lay_out, svg_text, uncollected, write_pdf, write_png
from analysis.report.figure_style import (
    INCHES,
    SMALL,
    Style,
    colour_of,
    legend_below,
    look,
    marker_of,
    panels,
    styled,
)
from analysis.report.latex import COLUMN, ENDINGS, PAGE, WIDTHS
from analysis.report.over_optimisation import over_optimisation
from analysis.report.span_tables import span_kinds, span_metrics
from analysis.report.study_table import label
from analysis.report.table_cells import number
from analysis.stats.intervals import mean_interval
from analysis.study.comparison import Difference
from analysis.study.study import DRIFT, Study, late_means
from mirrorpo.run.forks import fork_map

Drawing = Callable[[Study, Names], Figure | None]
# The exact maps that others are drawn beside, with their line styles.
EXACT: Mapping[str, str] = {"kl_exact": ":", "probl2_exact": "-"}
EXACT_NAMES: Names = {"kl_exact": "KL (exact)", "probl2_exact": "ProbL2 (exact)"}


def _rows(curves: Frame, arm: str, block: str) -> Frame:
    return curves[(curves["arm"] == arm) & (curves["block"] == block)]


def frontier(study: Study, names: Names | None = None) -> Figure | None:
    """Accuracy against drift: every run's path, its end marked; the mean end of an arm larger."""
    curves = study.curve(study.metric, DRIFT).dropna()
    if curves.empty or not curves[DRIFT].max() > 0:
        return None
    blocks = study.design.blocks
    figure, axes = panels(len(blocks), 2.9)
    for axis, block in zip(axes, blocks, strict=True):
        for index, arm in enumerate(study.design.arms):
            ends: list[tuple[float, float]] = []
            for _, rows in _rows(curves, arm, block).groupby("run"):
                path = rows.sort_values("step")
                axis.plot(path[DRIFT], 100 * path[study.metric], alpha=0.3, lw=0.9, **look(index))
                ends.append((path[DRIFT].iloc[-1], 100 * path[study.metric].iloc[-1]))
            if ends:
                _mark_ends(axis, ends, _named(names, arm), index)
        axis.set(
            title=label("accuracy against drift", block),
            xlabel=f"{DRIFT}, nats",
            ylabel="held-out accuracy, %",
        )
    legend_below(figure, axes[0], study.design.axis)
    return figure


def _named(names: Names | None, arm: str) -> str:
    return (names or {}).get(arm, arm)


def _mark_ends(axis: Axes, ends: Sequence[tuple[float, float]], arm: str, index: int) -> None:
    x, y = np.array(ends).T
    style: Style = {"color": colour_of(index), "marker": marker_of(index)}
    axis.scatter(x, y, s=9, alpha=0.5, lw=0, **style)
    axis.scatter(x.mean(), y.mean(), s=45, edgecolor="white", lw=0.8, label=arm, zorder=3, **style)


def forest(study: Study, names: Names | None = None) -> Figure | None:
    """Differences from the baseline with their intervals, arm by arm; a filled mark is a verdict."""
    blocks = [block for block in study.design.blocks if len(study.arms(block)) > 1]
    if not blocks:
        return None
    figure, axes = panels(len(blocks), 0.6 + 0.28 * len(study.design.arms))
    for axis, block in zip(axes, blocks, strict=True):
        differences = study.differences(block)
        for height, (arm, difference) in enumerate(differences.items()):
            _draw_difference(axis, difference, height, study.design.arms.index(arm))
        axis.axvline(0, color="#555", lw=0.9)
        axis.set_yticks(range(len(differences)), [_named(names, arm) for arm in differences])
        axis.set_ylim(len(differences) - 0.4, -0.7)
        axis.set(title=label(f"difference from {_named(names, study.design.baseline)}, points", block))
        axis.grid(axis="y", visible=False)
    return figure


def _draw_difference(axis: Axes, difference: Difference, height: int, index: int) -> None:
    interval, colour = difference.interval.scaled(100), colour_of(index)
    if np.isfinite(interval.low):
        axis.plot([interval.low, interval.high], [height, height], color=colour, lw=1.6)
    filled = difference.verdict() in ("better", "worse")
    inside = colour if filled else "white"
    axis.plot(interval.estimate, height, marker_of(index), color=colour, mfc=inside, ms=5.5)
    axis.annotate(
        number(interval.estimate, 1, True),
        (interval.estimate, height),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=SMALL,
    )


def spans(study: Study, names: Names | None = None) -> Figure | None:
    """Importance by kind of span: mean drop, and share of tokens beside share of gradient."""
    kinds = span_kinds(study)
    if not kinds:
        return None
    metrics = span_metrics(kinds)
    late = late_means(study.curve(*metrics), metrics)
    arms = [arm for arm in study.design.arms if late[late["arm"] == arm][metrics].notna().any(axis=None)]
    if not arms:
        return None
    figure, axes = panels(2, 2.6)
    width = 0.8 / len(arms)
    for index, arm in enumerate(arms):
        rows, colour = late[late["arm"] == arm], colour_of(study.design.arms.index(arm))
        x = [kind + (index - (len(arms) - 1) / 2) * width for kind in range(len(kinds))]
        for axis, quantity, scale in ((axes[0], "drop", 1), (axes[1], "gradient", 100)):
            values = [list(rows[f"credit/{quantity}_{kind}"].dropna() * scale) for kind in kinds]
            # A share is not below 0.
            _bars(
                axis,
                x,
                values,
                width,
                _named(names, arm),
                colour,
                floor=0.0 if quantity == "gradient" else None,
            )
        tokens = [100 * rows[f"credit/tokens_{kind}"].mean() for kind in kinds]
        legend = "share of tokens" if index == len(arms) - 1 else None
        axes[1].scatter(x, tokens, marker="_", s=500 * width, color="white", lw=2.4, zorder=3)
        axes[1].scatter(x, tokens, marker="_", s=380 * width, color="#222222", lw=1.3, zorder=4, label=legend)
    titles = ("mean drop when hidden, nats", "share of the policy gradient, %")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xticks(range(len(kinds)), kinds)
        axis.set(title=title)
        axis.grid(axis="x", visible=False)
    legend_below(figure, axes[1])
    return figure


def _bars(
    axis: Axes,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    width: float,
    label: str,
    color: str,
    floor: float | None = None,
) -> None:
    """Means of several samples with Student's intervals, which end at the floor."""
    intervals = [mean_interval(sample or [float("nan")]) for sample in values]
    if floor is not None:
        intervals = [interval.within(floor) for interval in intervals]
    error = [
        [interval.estimate - interval.low if np.isfinite(interval.low) else 0 for interval in intervals],
        [interval.high - interval.estimate if np.isfinite(interval.high) else 0 for interval in intervals],
    ]
    means = [interval.estimate for interval in intervals]
    line: Style = {"lw": 1, "ecolor": "#333"}
    axis.bar(x, means, width * 0.92, color=color, alpha=0.8, label=label, yerr=error, error_kw=line)


def weights(study: Study, names: Names | None = None) -> Figure | None:
    """Token weights in the last quarter of the steps, from the run folders; None where there are none."""
    by_arm = {arm: _weights(study, arm) for arm in study.design.arms}
    shown = {arm: values for arm, values in by_arm.items() if len(values) and np.ptp(values) > 0}
    if not shown:
        return None
    low = min(float(np.quantile(values, 0.001)) for values in shown.values())
    top = max(float(np.quantile(values, 0.999)) for values in shown.values())
    figure, axes = panels(len(shown), 1.7, columns=3)
    for axis, (arm, values) in zip(axes, shown.items(), strict=True):
        bins, percent = np.linspace(low, top, 41), np.full(len(values), 100 / len(values))
        colour = colour_of(study.design.arms.index(arm))
        axis.hist(np.clip(values, low, top), bins=list(bins), weights=percent, color=colour, alpha=0.85)
        axis.axvline(1, color="#555", lw=0.9)
        axis.set(title=_named(names, arm), xlabel="token weight")
    axes[0].set(ylabel="tokens, %")
    for axis in axes[1:]:
        axis.sharey(axes[0])
    return figure


def _weights(study: Study, arm: str) -> NDArray[np.float64]:
    values: list[float] = []
    for run in study.design.runs:
        if run.arm == arm:
            steps = shown_steps(folder := Path(run.row["source"]))
            last = set(steps[-max(1, len(steps) // 4) :])
            values += [weight for _, row in shown_completions(folder, last) for weight in row["weights"]]
    return np.array(values)


class MirrorMap(TypedDict):
    """One divergence's curves over p, as `mirrorpo.tools.mirror_map_curves` writes them.

    Attributes:
        h: the potential; None where the divergence has none.
        slope: the mirror map.
        D: the divergence from each anchor.
    """

    h: list[float] | None
    slope: list[float] | None
    D: list[list[float]]


class MirrorMaps(TypedDict):
    """What `mirrorpo.tools.mirror_map_curves` writes of a request.

    Attributes:
        p: the probabilities that curves are drawn over.
        anchors: the anchors of D.
        curves: by divergence.
    """

    p: list[float]
    anchors: list[float]
    curves: dict[str, MirrorMap]


def mirror_maps(study: Study, names: Names | None = None) -> Figure | None:
    """The mirror maps of the study's divergences as its runs configured them; None without torch."""
    runs = {arm: next(run for run in study.design.runs if run.arm == arm) for arm in study.design.arms}
    runs = {arm: run for arm, run in runs.items() if run.row["divergence"] not in (None, "none")}
    if study.design.axis != "divergence" or not runs:
        return None
    arms_by_settings: dict[tuple[str, ...], list[str]] = {}
    for arm, run in runs.items():
        settings = json.loads(run.row["settings"] or "{}").items()
        changed = tuple(f"{key}={value}" for key, value in settings if key.startswith("divergence."))
        arms_by_settings.setdefault(changed, []).append(arm)
    choices = {arm: str(run.row["divergence"]) for arm, run in runs.items()}
    requests = [(*(choices[arm] for arm in arms), *changed) for changed, arms in arms_by_settings.items()]
    drawn: dict[str, MirrorMap] = {}
    maps: MirrorMaps | None = None
    for computed, arms in zip(map_curves(tuple(requests)), arms_by_settings.values(), strict=True):
        if computed is not None:
            maps = computed
            drawn |= {arm: computed["curves"][choices[arm]] for arm in arms}
    if maps is None:
        return None
    labels = {arm: f"{_named(names, arm)}, β {runs[arm].settings.get('divergence.beta')}" for arm in drawn}
    styles = {arm: look(study.design.arms.index(arm)) for arm in drawn}
    return _draw_maps(maps, drawn, labels, styles, names or {})


def _draw_maps(
    maps: MirrorMaps,
    drawn: Mapping[str, MirrorMap],
    labels: Mapping[str, str],
    styles: Mapping[str, Style],
    names: Names,
) -> Figure:
    """Potentials and mirror maps beside the exact ones, and divergences of the arms that are drawn."""
    figure, axes = panels(4, 2.4)
    exact = {name: maps["curves"][name] for name in EXACT if name in maps["curves"] and name not in drawn}
    for name, curve in {**exact, **drawn}.items():
        style = styles.get(name) or {"color": "#999", "lw": 1, "ls": EXACT[name]}
        for axis, values in ((axes[0], curve["h"]), (axes[2], curve["slope"])):
            if values is not None:
                axis.plot(maps["p"], values, label=names.get(name, EXACT_NAMES.get(name, name)), **style)
        for axis, values in zip((axes[1], axes[3]), curve["D"], strict=True):
            if name in drawn:
                axis.plot(maps["p"], values, label=labels[name], **style)
    axes[0].set(title="potential h, scaled to h''(1/2) = 1", ylim=(0, 0.3))
    axes[2].set(title="mirror map h', scaled alike", xlabel="p", ylim=(-3, 1))
    for axis, anchor in zip((axes[1], axes[3]), maps["anchors"], strict=True):
        axis.set(title=f"D(p, {anchor}), at its own size", yscale="log", ylim=(1e-7, None))
    axes[3].set(xlabel="p")
    legend_below(figure, axes[0])
    axes[1].legend()
    return figure


@cache
def map_curves(requests: tuple[tuple[str, ...], ...]) -> list[MirrorMaps | None]:
    """Numbers from `mirrorpo.tools.mirror_map_curves`, in a process of its own since it needs torch.

    Args:
        requests: each of names of divergences, and settings of all of them.

    Returns:
        The curves of each request; None, with a note on the error stream, where there are none.
    """
    command = [sys.executable, "-m", "mirrorpo.tools.mirror_map_curves"]
    ran = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"note: no mirror maps: {reason}", file=sys.stderr)
        return [None] * len(requests)
    answers = json.loads(ran.stdout)
    for request, answer in zip(requests, answers, strict=True):
        if "error" in answer:
            print(f"note: no mirror maps of {' '.join(request)}: {answer['error']}", file=sys.stderr)
    return [None if "error" in answer else answer for answer in answers]


# Each figure by the name of its file, with its caption.
FIGURES: Mapping[str, tuple[Drawing, str]] = {
    # First, since it takes longest.
    "mirror_maps": (
        mirror_maps,
        "Potentials, mirror maps, and divergences at their own size, as these runs configured them.",
    ),
    "differences": (
        forest,
        "Differences from the baseline in points, 95% intervals; a filled mark can be told from zero after "
        "Holm's correction, an open one cannot.",
    ),
    "learning_curves": (
        learning,
        "Means over seeds; training metrics averaged over windows of a fortieth of the run. How sure a "
        "difference is, the figures of differences show.",
    ),
    "accuracy_differences": (
        accuracy_differences,
        "Seed by seed, the mean with Student's 95% interval at each evaluation by itself, all panels of one "
        "scale; no verdict rests on it.",
    ),
    "reward_differences": (
        reward_differences,
        "Seed by seed, the mean with Student's 95% interval at each step by itself, all panels of one scale; "
        "no verdict rests on it.",
    ),
    "frontier": (
        frontier,
        "Each run's path over its evaluations; small marks are the ends of runs, large ones the arms' means.",
    ),
    "over_optimisation": (
        over_optimisation,
        "Means over seeds in the order of training, windows of a twelfth of the steps, with Student's 95% "
        "interval of the reward; a mark is the end of training.",
    ),
    "length": (
        length,
        "Tokens of answers and the share that the length cap cut, means over seeds. A share that moves by "
        "less than half a point is left out.",
    ),
    "importance": (
        spans,
        "Mean over seeds of the last quarter's steps, with Student's 95% interval; the bar in the right "
        "panel is the share of tokens.",
    ),
    "weights": (
        weights,
        "Token weights of the shown completions in the last quarter of the steps; they have mean one in "
        "each completion.",
    ),
}


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure in both widths.

    Attributes:
        page: SVG, as wide as a page of paper.
        column: SVG, as wide as a column of one.
        caption: a sentence below it.
        alt: what it says to somebody who does not see it.
    """

    page: str
    column: str
    caption: str
    alt: str


def draw(
    study: Study,
    folder: Path,
    names: Names | None = None,
    widths: Sequence[str] = WIDTHS,
    only: Sequence[str] | None = None,
) -> dict[str, DrawnFigure]:
    """Every figure that the study has the numbers for: `NAME.*` a page wide, `NAME_column.*` a column wide.

    Each as PDF and SVG, the page's width as PNG too. Two reports of the same runs write the same bytes.

    Args:
        study: the runs.
        folder: to write to.
        names: by label of an arm what is printed for it.
        widths: of the files that are written, "column" and "page".
        only: the figures that are drawn, by name; all.

    Returns:
        By name the figure in both widths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(FIGURES if only is None else only)
    made = fork_map(partial(_both, study, folder, names or {}, widths), wanted)
    return {name: drawn for name, drawn in zip(wanted, made, strict=True) if drawn is not None}


def _both(study: Study, folder: Path, names: Names, widths: Sequence[str], name: str) -> DrawnFigure | None:
    """A figure in both widths, with its files in the widths that are asked for; None without the numbers."""
    drawing, caption = FIGURES[name]
    drawn: dict[str, tuple[str, str]] = {}
    with uncollected():
        for width in WIDTHS:
            path = folder / f"{name}{ENDINGS[width]}.svg" if width in widths else None
            if made := _drawn(partial(drawing, study, names), name, width, caption, path):
                drawn[width] = made
    if not drawn:
        return None
    (page, alt), (column, _) = drawn[PAGE], drawn[COLUMN]
    return DrawnFigure(page, column, caption, alt)


def _drawn(
    drawing: Callable[[], Figure | None], name: str, width: str, caption: str, path: Path | None
) -> tuple[str, str] | None:
    """The SVG of one width and its alt text, with its files if there is a path; None without the numbers."""
    # Neither a date nor a random id is in a file.
    with styled(INCHES[width]), matplotlib.rc_context({"svg.hashsalt": f"{name}{ENDINGS[width]}"}):
        figure = drawing()
        if figure is None:
            return None
        lay_out(figure)
        alt = alt_text(caption, figure)
        about = {"Title": name.replace("_", " "), "Description": alt}
        svg = svg_text(figure, about)
        if path is not None:
            path.write_text(svg)
            write_pdf(figure, path.with_suffix(".pdf"), about)
            if width == PAGE:
                write_png(figure, path.with_suffix(".png"), about)
        pyplot.close(figure)
    return svg, alt
