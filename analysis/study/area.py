"""Area under a training curve by arm, paired over seeds, and what a sweep was expected to show of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.stats.intervals import Interval
from analysis.study.comparison import difference
from analysis.study.endpoint import Kind, endpoint
from analysis.study.statement import Statement, read_statement
from analysis.study.study import Study

# The difference's interval lies above zero, below, not above, not below.
SIGNS = (">", "<", "!>", "!<")


@dataclass(frozen=True, kw_only=True, slots=True)
class Areas:
    """The area under a metric's curve in each run, over the range of its steps.

    Attributes:
        metric: whose curve.
        by_arm: the area of each seed, by arm.
    """

    metric: str
    by_arm: Mapping[str, Mapping[int, float]]

    def difference(self, arm: str, other: str) -> Interval:
        """An arm minus another with its 95% interval over the seeds that both have (`comparison.difference`).

        Raises:
            ValueError: if an arm has no run, or they share no seed.
        """
        for name in (arm, other):
            if name not in self.by_arm:
                raise ValueError(
                    f"{name!r} is no arm with a curve of {self.metric}; there are {', '.join(self.by_arm)}"
                )
        ours, theirs = self.by_arm[arm], self.by_arm[other]
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            raise ValueError(f"{arm} and {other} share no seed")
        sides = [np.array([side[seed] for seed in seeds]) for side in (ours, theirs)]
        return difference(sides[0], sides[1]).interval


def areas(study: Study, metric: str) -> Areas:
    """The areas of a study with one block, as the endpoint `auc:METRIC` has them.

    Args:
        study: the runs.
        metric: whose curve, with or without `auc:`.

    Raises:
        ValueError: if there are several blocks, no run has the metric, or it is an endpoint of another kind.
    """
    named = endpoint(metric, study.metric, study.export.names)
    if named.kind not in (Kind.AREA, Kind.END):
        raise ValueError(
            f"metric={metric}: no area; name {named.metric}, or compare {metric} by `analysis compare`"
        )
    blocks = study.design.blocks
    if len(blocks) > 1:
        raise ValueError(f"{len(blocks)} blocks ({', '.join(blocks)}); name the axis that varies by --axis")
    made = replace(named, kind=Kind.AREA)
    by_arm: dict[str, dict[int, float]] = {}
    for arm in study.arms(blocks[0]):
        values = {seed: study.value(run, str(made)) for seed, run in study.runs(arm, blocks[0]).items()}
        if known := {seed: value for seed, value in values.items() if value == value}:
            by_arm[arm] = known
    if not by_arm:
        raise ValueError(f"metric={metric}: no finished run has it; a training curve is reward/mean")
    return Areas(metric=made.metric, by_arm=by_arm)


def holds(expected: Statement, gap: Interval) -> bool:
    """Whether what was expected of a difference came true; of a single seed nothing is shown either way.

    Args:
        expected: with a sign of SIGNS.
        gap: the difference with its 95% interval.
    """
    above, below = gap.low > 0, gap.high < 0
    return {">": above, "<": below, "!>": not above, "!<": not below}[expected.sign]


def expectations(texts: Sequence[str]) -> list[Statement]:
    """Expectations as they are written on a command line.

    Raises:
        ValueError: if one is not "ARM > OTHER", with >, <, !> or !<.

    Example:
        >>> [str(made) for made in expectations(["counterfactual > uniform", "random_span !> uniform"])]
        ['counterfactual > uniform', 'random_span !> uniform']
    """
    out: list[Statement] = []
    for text in texts:
        expected = read_statement(text, SIGNS)
        if expected is None:
            raise ValueError(f"expect={text!r}: write 'ARM > OTHER', with >, <, !> (not above) or !<")
        out.append(expected)
    return out
