"""Sweeps whose coefficient is steered: arms at equal drift and equal steps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.study.design import Run
from analysis.study.matched_drift import NEAR
from analysis.study.study import DRIFT, Study

TARGET, MEASURE = "beta_schedule.target", "beta_schedule.measure"


@dataclass(frozen=True)
class SteeredDrift:
    """The runs of one block and target, as a study of their own.

    Attributes:
        study: of these runs; its baseline is the usual arm's at this target.
        block: label.
        target: that the drift was steered to.
        measure: the metric that was steered.
        missed: by arm, seeds that did not end near the target with what they ended at.
        steps: of the last evaluation of every run; empty where they are not the same.
    """

    study: Study
    block: str
    target: float
    measure: str
    missed: Mapping[str, Mapping[int, float]]
    steps: int | None

    @property
    def matched(self) -> bool:
        """Whether drift and steps are those of all its runs, so that a verdict means something."""
        return not self.missed and self.steps is not None


def steered_drift(study: Study) -> list[SteeredDrift]:
    """The groups of a study in which every run was steered to one drift; none where a run was not."""
    if any(TARGET not in run.settings for run in study.design.runs):
        return []
    groups: dict[tuple[str, float, str], list[Run]] = {}
    for run in study.ordered_runs():
        key = run.block, float(run.settings[TARGET]), str(run.settings.get(MEASURE, DRIFT))
        groups.setdefault(key, []).append(run)
    evaluated = study.curve(study.metric).dropna().groupby("run")["step"].max()
    return [
        _group(study, runs, {int(evaluated.get(run.name, -1)) for run in runs}, key)
        for key, runs in groups.items()
        if len({run.arm for run in runs}) > 1
    ]


def _group(study: Study, runs: list[Run], ends: set[int], key: tuple[str, float, str]) -> SteeredDrift:
    block, target, measure = key
    choices = study.design.choices
    usual = choices[study.design.baseline]
    arms = list(dict.fromkeys(run.arm for run in runs))
    baseline = next((arm for arm in arms if choices[arm] == usual), arms[0])
    of_group = replace(study, design=replace(study.design, runs=runs, baseline=baseline))
    missed: dict[str, dict[int, float]] = {}
    for run in runs:
        drift = study.last(run, measure)
        if not abs(drift - target) <= NEAR * target:
            missed.setdefault(run.arm, {})[run.seed] = drift
    steps = ends.pop() if len(ends) == 1 else None
    return SteeredDrift(of_group, block, target, measure, missed, steps if steps != -1 else None)
