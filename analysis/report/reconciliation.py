"""Where a finding and a table point in opposite directions, and how both can hold."""

import html
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.report.drift_tables import DRIFT_DIGITS, not_known
from analysis.report.study_table import label
from analysis.report.table_cells import bounds, number
from analysis.report.training_tables import PASS
from analysis.stats.intervals import Interval
from analysis.stats.rounding import in_full
from analysis.study.budgets import METERS
from analysis.study.comparison import BETTER, WORSE, Difference
from analysis.study.equal_budget import at_budget
from analysis.study.matched_drift import MatchedDrift, matched_drift
from analysis.study.steered_drift import SteeredDrift, steered_drift
from analysis.study.study import DRIFT, Study


@dataclass(frozen=True, slots=True)
class Direction:
    """What one comparison says of an arm against the baseline.

    Attributes:
        sign: +1 better, -1 worse.
        where: what is compared, as a sentence says it.
        interval: of the difference.
        why: how it can differ from the finding at the end of training.
    """

    sign: int
    where: str
    interval: Interval
    why: str = ""

    def __str__(self) -> str:
        gap = f"{number(100 * self.interval.estimate, 1, True)} {bounds(self.interval.scaled(100))}".strip()
        return f"{BETTER if self.sign > 0 else WORSE} {self.where} ({gap})"


def reconciled(study: Study) -> list[str]:
    """A sentence, as HTML, for each arm that one comparison has better and another worse than the baseline.

    And one for each block whose accuracy at equal drift is not known, since the findings are at equal steps.
    """
    steered = bool(steered_drift(study))
    out: list[str] = []
    for block in study.design.blocks:
        matched = None if steered else matched_drift(study, block)
        for arm in study.arms(block):
            if arm != study.design.baseline:
                directions = list(_directions(study, arm, block, matched))
                out += _sentence(study, label(block, arm), directions)
        if matched is not None and matched.faults:
            out.append(_not_known(study, block, matched))
    return out


def _sentence(study: Study, name: str, directions: list[Direction]) -> list[str]:
    opposed = [direction for direction in directions if direction.sign != directions[0].sign]
    if not opposed:
        return []
    contrary = " and ".join(map(str, opposed))
    whys = "; ".join(dict.fromkeys(each.why for each in (directions[0], *opposed) if each.why))
    text = f"against {study.design.baseline} is {directions[0]}, but {contrary}. Both hold: {whys}."
    return [f"<b>{html.escape(name)}</b> {html.escape(text)}"]


def _directions(study: Study, arm: str, block: str, matched: MatchedDrift | None) -> Iterator[Direction]:
    """What every comparison of an arm says where it says one; that of the findings first."""
    yield from _verdict(study.differences(block).get(arm), f"at the end by {study.metric}")
    for metric in (study.beside("greedy_accuracy"), f"{PASS}1"):
        if metric != study.metric and metric in study.export.names:
            difference = study.differences(block, metric).get(arm)
            yield from _verdict(difference, f"at the end by {metric}", f"{metric} is another metric")
    for metric in (study.metric, "reward/mean"):
        if metric in study.export.names:
            difference, why = (
                study.differences(block, f"auc:{metric}").get(arm),
                f"auc:{metric} is of the way",
            )
            yield from _verdict(difference, f"on the way by auc:{metric}", f"{why} there, not of the end")
    for of_set in study.export.sets:
        difference = study.on(of_set).differences(block).get(arm)
        yield from _verdict(difference, f"on {of_set}", f"{of_set} has other questions")
    for budget in study.budgets:
        difference = at_budget(study, budget).study.differences(block).get(arm)
        unit = METERS[budget.name].unit
        why = f"at equal {unit} runs are compared where all have spent as much, not at their ends"
        yield from _verdict(difference, f"at equal {unit}", why)
    if matched is not None:
        yield from _at_drift(study, matched, arm)


def _verdict(difference: Difference | None, where: str, why: str = "") -> Iterator[Direction]:
    verdict = difference.verdict() if difference is not None else ""
    if difference is not None and verdict in (BETTER, WORSE):
        yield Direction(1 if verdict == BETTER else -1, where, difference.interval, why)


def _at_drift(study: Study, matched: MatchedDrift, arm: str) -> Iterator[Direction]:
    """What is known at equal drift; a description, so it counts where an interval leaves zero out."""
    base = study.design.baseline
    differences = matched.differences(arm, base)
    if differences is None or not (matched.known(arm) and matched.known(base)):
        return
    for interval, which in zip(differences, ("first", "last"), strict=True):
        if interval.low > 0 or interval.high < 0:
            steps = {
                name: np.mean([getattr(run, which) for run in matched.passages[name].values()])
                for name in (arm, base)
            }
            why = (
                f"the end compares equal steps, and at equal drift ({which} step there, no verdict) {arm} "
                f"has taken {number(float(steps[arm]))} steps and {base} {number(float(steps[base]))}"
            )
            sign = 1 if interval.estimate > 0 else -1
            yield Direction(sign, f"where both have drifted {_nats(matched.at)} ({which})", interval, why)


def _not_known(study: Study, block: str, matched: MatchedDrift) -> str:
    ends = {
        arm: float(np.mean(list(values.values())))
        for arm in matched.passages
        if (values := study.scores(arm, block, DRIFT))
    }
    low, high = (choose(ends, key=lambda arm: ends[arm]) for choose in (min, max))
    where = f"{block}: " if block else ""
    why = "; ".join(not_known(matched))
    return html.escape(
        f"{where}At equal drift ({_nats(matched.at)}) accuracy is not known: {why}. The findings are at "
        f"equal steps, where drift differs: from {_nats(ends[low])} ({low}) to {_nats(ends[high])} "
        f"({high})."
    )


def _nats(drift: float) -> str:
    return f"{number(drift, DRIFT_DIGITS)} nats"


def steered_findings(study: Study) -> list[str]:
    """A line, as HTML, for each group of runs that were steered to one drift and got there or not."""
    return [_steered(group) for group in steered_drift(study)]


def _steered(group: SteeredDrift) -> str:
    where = label(group.block, f"{group.measure} steered to {in_full(group.target)}")
    if not group.matched:
        missed = ", ".join(group.missed)
        why = f"of {missed} not all runs ended near it" if missed else "runs have different numbers of steps"
        return html.escape(f"At equal drift and steps ({where}): no verdict, {why}.")
    base = group.study.design.baseline
    gaps = ", ".join(
        f"{arm} {number(100 * difference.interval.estimate, 1, True)} "
        f"{bounds(difference.interval.scaled(100))}: {difference.verdict()}"
        for arm, difference in group.study.differences(group.block).items()
    )
    return html.escape(f"At equal drift and steps ({where}, step {group.steps}), against {base}: {gaps}.")
