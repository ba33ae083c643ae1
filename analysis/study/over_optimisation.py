"""Proxy and gold reward along the drift from the start model, by arm: gold at its peak and at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.data.export import Frame
from analysis.stats.intervals import Interval, mean_interval
from analysis.study.study import DRIFT, Study

# What is trained on, and what it stands for.
PROXY, GOLD = "reward/mean", "reward/gold"
# The axis of Gao et al.: the square root of the KL from the start model.
DISTANCE = "distance"
# A run's steps are averaged in so many windows, which differ by a step at most; of fewer steps each is one.
WINDOWS = 12


@dataclass(frozen=True)
class Course:
    """An arm's runs, in windows of steps.

    Attributes:
        seeds: of the rows.
        steps: the last one of each window, of the columns.
        proxy: reward that is trained on, of each seed and window.
        gold: reward that it stands for.
        distance: square root of KL(policy, start model).

    References:
        Gao, Schulman, Hilton 2022, Scaling laws for reward model overoptimization, https://arxiv.org/abs/2210.10760
    """

    seeds: Sequence[int]
    steps: Sequence[int]
    proxy: NDArray[np.float64]
    gold: NDArray[np.float64]
    distance: NDArray[np.float64]

    @cached_property
    def peaks(self) -> list[int]:
        """Of each seed the window in which the other seeds' mean gold is highest; of a single seed its own.

        A window chosen by a seed's own gold would count the luck for which it was chosen.
        """
        others = [np.delete(self.gold, row, axis=0) for row in range(len(self.seeds))]
        return [int((rest if len(rest) else self.gold).mean(axis=0).argmax()) for rest in others]

    def at_peak(self, values: NDArray[np.float64]) -> Interval:
        """The mean over seeds at the peak of gold, with Student's interval."""
        return mean_interval(self._there(values))

    def at_end(self, values: NDArray[np.float64]) -> Interval:
        """The same in the last window."""
        return mean_interval(values[:, -1])

    @property
    def peak_steps(self) -> list[int]:
        """The last steps of the peaks' windows, by seed."""
        return [self.steps[peak] for peak in self.peaks]

    @property
    def lost(self) -> Interval:
        """Gold at the peak less gold at the end, seed by seed."""
        return mean_interval(self._there(self.gold) - self.gold[:, -1])

    def _there(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[np.arange(len(self.seeds)), self.peaks]


def courses(study: Study, block: str = "") -> Mapping[str, Course]:
    """By arm of a block; none where no run logs a gold reward, a proxy and a drift."""
    if not {PROXY, GOLD, DRIFT} <= set(study.export.names):
        return {}
    curves = study.curve(PROXY, GOLD, DRIFT)
    curves = curves[curves["block"] == block].dropna(subset=[PROXY, GOLD, DRIFT])
    out: dict[str, Course] = {}
    for arm in study.arms(block):
        rows = curves[curves["arm"] == arm]
        if not rows.empty:
            out[arm] = _course(rows.assign(**{DISTANCE: np.sqrt(rows[DRIFT].clip(lower=0))}))
    return out


def _course(rows: Frame) -> Course:
    # A window ends with the last step that is no more than its number of twelfths, and is named by it.
    last = int(rows["step"].max())
    numbers = -(-rows["step"].astype(int) * WINDOWS // max(last, 1))
    windows = rows.assign(step=numbers * last // WINDOWS)
    means = windows.groupby(["seed", "step"])[[PROXY, GOLD, DISTANCE]].mean()
    # Windows that some seed does not reach are no comparison.
    tables = {name: means[name].unstack("step").dropna(axis="columns") for name in (PROXY, GOLD, DISTANCE)}
    gold = tables[GOLD]
    return Course(
        seeds=[int(seed) for seed in gold.index],
        steps=[int(step) for step in gold.columns],
        proxy=tables[PROXY].to_numpy(dtype=float),
        gold=gold.to_numpy(dtype=float),
        distance=tables[DISTANCE].to_numpy(dtype=float),
    )
