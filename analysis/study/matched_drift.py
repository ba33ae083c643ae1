"""Where runs pass a drift, by what is logged each step, and what accuracy is known there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from analysis.data.export import Frame
from analysis.stats.intervals import Interval
from analysis.study.comparison import difference
from analysis.study.study import DRIFT, Study

# Evaluations of a run without which nothing is known on its way.
FEWEST_EVALUATIONS = 2
# From the evaluation before a run first passes the drift to the one after it last does, at most so many.
MOST_INTERVALS = 3
# The logged drift where it is passed differs from the one that is wanted by at most this share.
NEAR = 0.25
# Why accuracy at a drift is not known, with what would tell.
EARLY, AGAIN, COARSE = "early", "again", "coarse"
REASONS: Mapping[str, str] = {
    EARLY: "pass it before anything was evaluated after their start; evaluate more often (eval_every)",
    AGAIN: f"pass it several times, over more than {MOST_INTERVALS} evaluations: accuracy is not a function "
    "of drift there",
    COARSE: f"have no logged drift within {NEAR:.0%} of it where they pass it; log it more often "
    "(drift_every)",
}


@dataclass(frozen=True, slots=True)
class Passage:
    """Where a run passes a drift.

    Attributes:
        first: the first logged step at which it has drifted as far.
        last: the step from which on it stays as far to its end; its last step where it ends below.
        crossings: how often it passes the drift, in either direction.
        scores: accuracy at the first and at the last, linear between the evaluations around them.
        fault: of REASONS, why accuracy there is not known; "" where it is.
    """

    first: int
    last: int
    crossings: int
    scores: tuple[float, float]
    fault: str = ""


def passage(
    steps: Sequence[int],
    drifts: Sequence[float],
    evaluated: Sequence[int],
    scores: Sequence[float],
    at: float,
) -> Passage:
    """Where a run passes a drift that it reaches at an evaluation.

    Args:
        steps: of the logged drifts, ascending.
        drifts: at those steps.
        evaluated: steps of the evaluations, ascending; the start may be among them.
        scores: of the evaluations.
        at: the drift.

    Example:
        >>> passage([0, 1, 2, 3, 4], [0.0, 1.0, 2.1, 1.9, 2.2], [0, 2, 4], [0.5, 0.6, 0.8], 2.0)
        Passage(first=2, last=4, crossings=3, scores=(0.6, 0.8), fault='')
    """
    far = [drift >= at for drift in drifts]
    first = far.index(True)
    below = max((index for index, reached in enumerate(far) if not reached), default=-1)
    last = min(below + 1, len(far) - 1)
    crossings = sum(before != after for before, after in pairwise(far))
    low = max((step for step in evaluated if step <= steps[first]), default=None)
    high = min(step for step in evaluated if step >= min(steps[last], evaluated[-1]))
    fault = ""
    if any(abs(drifts[index] - at) > NEAR * at for index in (first, last)):
        fault = COARSE
    elif low is None or (low == 0 and steps[first] > 0):
        fault = EARLY
    elif sum(low < step <= high for step in evaluated) > MOST_INTERVALS:
        fault = AGAIN
    there = np.interp([steps[first], steps[last]], evaluated, scores)
    return Passage(steps[first], steps[last], crossings, (float(there[0]), float(there[1])), fault)


@dataclass(frozen=True)
class MatchedDrift:
    """One block's runs where they have drifted as far.

    Attributes:
        at: the largest drift, in nats, that all runs reach at an evaluation.
        passages: by arm and seed.
        every: the largest distance between two logged drifts of a run, in steps.
    """

    at: float
    passages: Mapping[str, Mapping[int, Passage]]
    every: int

    def known(self, arm: str) -> bool:
        """Whether accuracy at the drift is known of all runs of an arm."""
        return not any(run.fault for run in self.passages[arm].values())

    @cached_property
    def faults(self) -> dict[str, dict[str, int]]:
        """By reason and arm, of how many runs accuracy is not known."""
        out: dict[str, dict[str, int]] = {}
        for arm, of_arm in self.passages.items():
            for run in of_arm.values():
                if run.fault:
                    counts = out.setdefault(run.fault, {})
                    counts[arm] = counts.get(arm, 0) + 1
        return out

    def differences(self, arm: str, base: str) -> tuple[Interval, Interval] | None:
        """Of two arms' accuracies seed by seed, at the first and the last step there; None without seeds."""
        ours, theirs = self.passages.get(arm, {}), self.passages.get(base, {})
        seeds = [seed for seed in ours if seed in theirs]
        if arm == base or not seeds:
            return None
        at_first, at_last = (
            difference(
                np.array([ours[seed].scores[which] for seed in seeds]),
                np.array([theirs[seed].scores[which] for seed in seeds]),
            )
            for which in (0, 1)
        )
        return at_first.interval, at_last.interval


def matched_drift(study: Study, block: str = "") -> MatchedDrift | None:
    """Where a block's runs have drifted equally far; None without drift, or evaluations on the way."""
    curves = study.curve(study.metric, DRIFT)
    logged = curves[curves["block"] == block].dropna(subset=[DRIFT]).sort_values("step")
    evaluated = logged.dropna(subset=[study.metric])
    if evaluated.empty or evaluated.groupby("run")["step"].nunique().min() < FEWEST_EVALUATIONS:
        return None
    at = float(evaluated.groupby("run")[DRIFT].max().min())
    if at <= 0 or logged["run"].nunique() != evaluated["run"].nunique():
        return None
    by_run = {run: rows for run, rows in evaluated.groupby("run")}
    passages: dict[str, dict[int, Passage]] = {}
    for (arm, seed, run), rows in logged.groupby(["arm", "seed", "run"]):
        passages.setdefault(str(arm), {})[int(seed)] = _of_run(rows, by_run[run], study.metric, at)
    arms = {arm: passages[arm] for arm in study.arms(block) if arm in passages}
    every = int(logged.groupby("run")["step"].diff().max())
    return MatchedDrift(at, arms, every)


def _of_run(logged: Frame, evaluated: Frame, metric: str, at: float) -> Passage:
    steps, drifts = list(map(int, logged["step"])), list(logged[DRIFT])
    return passage(steps, drifts, list(map(int, evaluated["step"])), list(evaluated[metric]), at)
