"""What was compared: the axes that vary, the arms, their seeds.

An arm is a choice on the main axis, such as a divergence, with whatever settings were swept beside it; arms
are compared within a block, which is a choice on every other axis that varies, such as a model.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.export import Export
from analysis.schema import AXES
from mirrorpo.config.identity import identity

# The first of these that varies is the main axis, unless one is named.
MAIN = ("divergence", "weighting", "algo", "model", "dataset")
BASELINES: Mapping[str, Sequence[str]] = {
    "divergence": ("kl", "kl_k3", "none"),
    "weighting": ("uniform",),
    "algo": ("grpo", "dr_grpo"),
}


@dataclass(frozen=True)
class Run:
    """One run of the design.

    Attributes:
        row: its row of `runs`.
        settings: its config's identity, as dotted keys.
        arm, block: labels.
    """

    row: Mapping[str, Any]
    settings: Mapping[str, Any]
    arm: str
    block: str

    @property
    def name(self) -> str:
        """Its key in metrics and questions."""
        return self.row["run"]

    @property
    def seed(self) -> int:
        """Its seed; -1 where the run does not say."""
        return -1 if self.row["seed"] is None else self.row["seed"]

    def __str__(self) -> str:
        """What an error calls it."""
        return f"{self.row['source']} ({self.block + ', ' if self.block else ''}{self.arm}, seed {self.seed})"


@dataclass(frozen=True)
class Design:
    """The grid behind a sweep's tables.

    Attributes:
        axis: the main axis.
        baseline: the arm that others are measured from.
        swept: settings beyond the axes that make arms.
        others: axes beside the main one that vary, which make blocks.
        runs: all runs, usable or not.
        seeds_asked: seeds that the sweep's command names.
        arms_asked: choices on the main axis that it names.
    """

    axis: str
    baseline: str
    swept: Sequence[str]
    others: Sequence[str]
    runs: Sequence[Run]
    seeds_asked: Sequence[int] = field(default=())
    arms_asked: Sequence[str] = field(default=())

    @cached_property
    def blocks(self) -> list[str]:
        """Labels of the blocks, in the order of their runs; one empty label where nothing but the arms
        varies.
        """
        return list(dict.fromkeys(run.block for run in self.runs))

    @cached_property
    def arms(self) -> list[str]:
        """Labels of the arms, the baseline first, others in the order of the sweep's command, then by name."""
        place = {name: index for index, name in enumerate(self.arms_asked)}
        known = dict.fromkeys(run.arm for run in self.runs)
        return sorted(
            known, key=lambda arm: (arm != self.baseline, place.get(arm.split(" ")[0], len(place)), arm)
        )


def swept_settings(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of a command line that name several values, with the values.

    Example:
        >>> swept_settings(["steps=4", "divergence=none,kl", "seed=range(2)"])
        {'divergence': ['none', 'kl'], 'seed': ['0', '1']}
    """
    parser = OverridesParser.create()
    out: dict[str, list[str]] = {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            continue
        if override.is_sweep_override():
            out[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return out


def design(
    export: Export, *, axis: str | None = None, baseline: str | None = None, by: Sequence[str] = ()
) -> Design:
    """Find the arms of an export.

    Args:
        export: the runs.
        axis: the main axis; else the first of MAIN that varies, or the divergence.
        baseline: the arm to measure from; else the axis' usual one.
        by: settings that make arms, beside those that the sweep's own command sweeps.

    Raises:
        ValueError: if an axis or the baseline is not there, naming what is.
    """
    asked: dict[str, list[str]] = {}
    for one in export.about.get("asked", []):
        for key, values in swept_settings([*one["typed"], *one["written"]]).items():
            asked[key] = list(dict.fromkeys([*asked.get(key, []), *values]))
    records = export.records
    varying = [name for name in AXES if len({row[name] for row in records if row[name] is not None}) > 1]
    axis = axis or next((name for name in MAIN if name in varying), "divergence")
    if axis not in AXES:
        raise ValueError(
            f"axis={axis}: choose one of {', '.join(AXES)}; a setting below an axis is given with --by"
        )
    swept = [key for key in dict.fromkeys([*by, *asked]) if key not in (*AXES, "seed")]
    others = [name for name in varying if name != axis]
    settings = {row["run"]: identity(json.loads(row["config"])) if row["config"] else {} for row in records}
    swept = [key for key in swept if len({str(own.get(key)) for own in settings.values() if own}) > 1]
    runs = [_run(row, settings[row["run"]], axis, swept, others) for row in records]
    arms = list(dict.fromkeys(run.arm for run in runs))
    return Design(
        axis=axis,
        baseline=baseline if baseline in arms else _baseline(runs, axis, arms, baseline),
        swept=swept,
        others=others,
        runs=runs,
        seeds_asked=[int(seed) for seed in asked.get("seed", [])],
        arms_asked=asked.get(axis, []),
    )


def _run(
    row: Mapping[str, Any], own: Mapping[str, Any], axis: str, swept: Sequence[str], others: Sequence[str]
) -> Run:
    # A setting below a block's axis belongs to the block, all others to the arm.
    outside = [key for key in swept if key.split(".")[0] in others]
    mine = [
        f"{key.removeprefix(axis + '.')}={own[key]}" for key in swept if key not in outside and key in own
    ]
    arm = " ".join([str(row[axis] or "unknown"), *mine])
    block = ", ".join([*(str(row[name]) for name in others), *(f"{key}={own.get(key)}" for key in outside)])
    return Run(row, own, arm, block)


def _baseline(runs: Sequence[Run], axis: str, arms: Sequence[str], named: str | None) -> str:
    wanted = (named,) if named else (*BASELINES.get(axis, ()), runs[0].row[axis])
    for choice in wanted:
        found = [arm for arm in arms if arm.split(" ")[0] == choice]
        if len(found) == 1:
            return found[0]
        if found and named:
            raise ValueError(f"baseline={named}: there are {found}; name one of them whole")
        if found:
            # Several strengths of the usual baseline: the one with the most runs, the first of equals.
            times = Counter(run.arm for run in runs)
            return max(found, key=lambda arm: times[arm])
    raise ValueError(f"no run with {axis}={named}: the arms are {sorted(arms)}")
