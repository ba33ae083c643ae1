"""Figures over the steps of training: means by arm, and differences from the baseline seed by seed."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.data.export import Frame
from analysis.report.figure_style import (
    SHARES,
    band,
    difference_band,
    heading,
    legend_below,
    panels,
    smooth,
)
from analysis.report.study_table import label
from analysis.study.study import DRIFT, Study

# Shares that change by less than so many points, on the mean of an arm, are not drawn.
FLAT_POINTS = 0.5
# Evaluations of a run below which its accuracy over steps is no curve.
FEWEST_FOR_CURVE = 3
# Letters of a panel's title where three stand beside each other.
TITLE_LETTERS = 24
Names = Mapping[str, str]


def learning(study: Study, names: Names | None = None) -> Figure | None:
    """Held-out accuracy, training reward, entropy and drift by step."""
    metrics = [study.metric, "reward/mean", "entropy/mean", DRIFT]
    titles = {
        study.metric: "held-out accuracy, %",
        "reward/mean": "training reward",
        "entropy/mean": "entropy, nats",
        DRIFT: "drift from the start model, nats",
    }
    return _by_step(study, metrics, titles, {study.metric: 100.0}, names or {})


def length(study: Study, names: Names | None = None) -> Figure | None:
    """Tokens of greedy and sampled answers, and how many were cut, by step."""
    metrics = ["eval/length", "completion/length", "eval/truncated", "completion/truncated"]
    titles = {
        "eval/length": "tokens of a greedy answer", "completion/length": "tokens of a sampled answer",
        "eval/truncated": "greedy answers cut, %", "completion/truncated": "sampled answers cut, %",
    }  # fmt: skip
    scales = {"eval/truncated": 100.0, "completion/truncated": 100.0}
    return _by_step(study, metrics, titles, scales, names or {})


def _by_step(
    study: Study, metrics: Sequence[str], titles: Names, scales: Mapping[str, float], names: Names
) -> Figure | None:
    """Means over seeds by step, a panel a metric and block; those that no run has or that are flat left out.

    One arm has its band; bands of several would hide each other.
    """
    present = [metric for metric in metrics if metric in study.export.names]
    if not present:
        return None
    curves = study.curve(*present)
    shown = [
        (block, metric)
        for block in study.design.blocks
        for metric in present
        if not flat(curves[curves["block"] == block], metric)
    ]
    if not shown:
        return None
    figure, axes = panels(len(shown))
    alone = len(study.design.arms) == 1
    for axis, (block, metric) in zip(axes, shown, strict=True):
        for index, arm in enumerate(study.design.arms):
            rows = curves[(curves["arm"] == arm) & (curves["block"] == block)]
            if not rows.empty:
                smoothed = smooth(rows, metric, int(rows["step"].max()))
                scale = scales.get(metric, 1.0)
                band(axis, smoothed, metric, names.get(arm, arm), index, scale, shaded=alone)
        axis.set(title=label(titles[metric], block), xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes[0], study.design.axis)
    return figure


def flat(curves: Frame, metric: str) -> bool:
    """Whether a metric's means over seeds say nothing: one value, or a share that hardly moves."""
    means = curves.dropna(subset=[metric]).groupby(["arm", "step"])[metric].mean()
    if means.empty:
        return True
    spread = float(means.max() - means.min())
    least = FLAT_POINTS / 100 if metric.startswith(SHARES) and "truncated" in metric else 1e-9
    return spread <= max(least, 1e-9 * abs(float(means.max())))


def accuracy_differences(study: Study, names: Names | None = None) -> Figure | None:
    """Held-out accuracy by step, as a difference from the baseline; None with few evaluations."""
    return _differences(study, study.metric, "held-out accuracy", "points", 100.0, names or {})


def reward_differences(study: Study, names: Names | None = None) -> Figure | None:
    """Training reward by step, as a difference from the baseline."""
    return _differences(study, "reward/mean", "training reward", "", 1.0, names or {})


def _differences(
    study: Study, metric: str, quantity: str, unit: str, scale: float, names: Names
) -> Figure | None:
    """An arm's difference from the baseline seed by seed, a panel an arm; arms that are one run share one."""
    if metric not in study.export.names:
        return None
    curves = study.curve(metric).dropna(subset=[metric])
    if curves.empty or curves.groupby("run")["step"].nunique().min() < FEWEST_FOR_CURVE:
        return None
    curves = smooth(curves, metric, int(curves["step"].max()))
    drawn = [
        (block, arms, gaps * scale)
        for block in study.design.blocks
        for arms, gaps in _by_arm(study, curves, metric, block)
    ]
    if not any(np.ptp(gaps.to_numpy()) > 0 for _, _, gaps in drawn):
        return None
    figure, axes = panels(len(drawn), 1.55, columns=3, narrow=2)
    base = names.get(study.design.baseline, study.design.baseline)
    for axis, (block, arms, gaps) in zip(axes, drawn, strict=True):
        named = " and ".join(names.get(arm, arm) for arm in arms)
        difference_band(axis, gaps, named, study.design.arms.index(arms[0]))
        axis.set(title=fill(label(named, block), TITLE_LETTERS), xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    _share_heights(axes)
    heading(figure, f"{quantity}, difference from {base}{f', {unit}' if unit else ''}")
    return figure


def _by_arm(study: Study, curves: Frame, metric: str, block: str) -> list[tuple[list[str], Frame]]:
    """The arms of a block that differ, each with gaps[seed, step]; arms with the same gaps together."""
    of_block = curves[curves["block"] == block]
    tables = {
        arm: of_block[of_block["arm"] == arm].pivot(index="seed", columns="step", values=metric)
        for arm in study.arms(block)
    }
    base = tables.pop(study.design.baseline, None)
    out: dict[bytes, tuple[list[str], Frame]] = {}
    if base is None:
        return []
    for arm, table in tables.items():
        gaps = (table - base).dropna(how="all").dropna(axis="columns")
        if not gaps.empty:
            values: NDArray[np.float64] = gaps.to_numpy()
            out.setdefault(values.tobytes(), ([], gaps))[0].append(arm)
    return list(out.values())


def _share_heights(axes: Sequence[Axes]) -> None:
    """All panels of one scale, so that differences are compared by eye."""
    lows, highs = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(lows), max(highs))
