"""Area under a training curve by arm, paired over seeds, and what a sweep was expected to show of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.intervals import Interval
from analysis.study.comparison import difference
from analysis.study.statement import Statement, read_statement
from analysis.study.study import Study

# The difference's interval lies above zero, below, not above, not below.
SIGNS = (">", "<", "!>", "!<")


@dataclass(frozen=True, kw_only=True, slots=True)
class Areas:
    """A metric's mean over the steps of each run, which is the area under its curve.

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
    """The areas of a study with one block.

    Raises:
        ValueError: if there are several blocks, or no run has the metric.
    """
    curves = study.curve(metric)
    if curves.empty or curves[metric].isna().all():
        raise ValueError(f"metric={metric}: no run has it; a training curve is, for instance, reward/mean")
    blocks = sorted(set(curves["block"]))
    if len(blocks) > 1:
        raise ValueError(f"{len(blocks)} blocks ({', '.join(blocks)}); name the axis that varies by --axis")
    by_arm: dict[str, dict[int, float]] = {arm: {} for arm in study.arms(blocks[0])}
    for (arm, seed), rows in curves.dropna(subset=[metric]).groupby(["arm", "seed"]):
        by_arm[str(arm)][int(seed)] = float(rows[metric].mean())
    return Areas(metric=metric, by_arm={arm: by_seed for arm, by_seed in by_arm.items() if by_seed})


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
