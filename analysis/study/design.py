"""What was compared: the axes that vary, the arms, their seeds.

An arm is a choice on the main axis, such as a divergence, with whatever settings were swept beside it; arms
are compared within a block, which is a choice on every other axis that varies, such as a model.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.data.commands import settings_along
from analysis.data.export import Export
from analysis.data.schema import AXES, Json
from analysis.study.selection import shown
from mirrorpo.config.identity import ADDED, identity
from mirrorpo.config.renamed import KEYS

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
        settings: its config's identity, as dotted keys under today's names.
        arm, block: labels.
    """

    row: Json
    settings: Json
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

    @cached_property
    def choices(self) -> frozenset[str]:
        """What was typed for it and what it chose, as `divergence=kl`."""
        typed = json.loads(self.row["command"] or "[]")
        return frozenset([*typed, *(f"{axis}={self.row[axis]}" for axis in AXES)])

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
        planned_seeds: seeds that the sweep's command names.
        planned_arms: choices on the main axis that it names.
        along: settings that come with a choice, as `divergence=kl`, by the sweep's file.
    """

    axis: str
    baseline: str
    swept: Sequence[str]
    others: Sequence[str]
    runs: Sequence[Run]
    planned_seeds: Sequence[int] = field(default=())
    planned_arms: Sequence[str] = field(default=())
    along: Mapping[str, Json] = field(default_factory=dict[str, Json])

    @cached_property
    def choices(self) -> Mapping[str, str]:
        """By label of an arm its choice on the main axis, in whose text there may be spaces."""
        # Of a baseline without a usable run only the label is known.
        unrun = {self.baseline: self.baseline.split(" ")[0]}
        return {**unrun, **{run.arm: _choice(run.row, self.axis) for run in self.runs}}

    @cached_property
    def blocks(self) -> list[str]:
        """Labels of the blocks, in the order of their runs; "" alone where only the arms vary."""
        return list(dict.fromkeys(run.block for run in self.runs))

    @cached_property
    def arms(self) -> list[str]:
        """Labels of the arms: the baseline, then in the order of the sweep's command, then by name."""
        order = {name: index for index, name in enumerate(self.planned_arms)}
        labels = dict.fromkeys(run.arm for run in self.runs)
        return sorted(
            labels, key=lambda arm: (arm != self.baseline, order.get(self.choices[arm], len(order)), arm)
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
            key = current_key(override.key_or_group)
            out[key] = [str(value) for value in override.sweep_string_iterator()]
    return out


def current_key(key: str) -> str:
    """A dotted setting under today's name of its group, whatever it was typed as.

    Example:
        >>> current_key("optimiser.lr"), current_key("divergence.beta")
        ('optim.lr', 'divergence.beta')
    """
    group, dot, rest = key.partition(".")
    return KEYS.get(group, group) + dot + rest


def design(
    export: Export, *, axis: str | None = None, baseline: str | None = None, by: Sequence[str] = ()
) -> Design:
    """Find the arms of an export.

    Args:
        export: the runs.
        axis: the main axis; else the first of MAIN that varies, or the divergence.
        baseline: the arm to measure from; else the axis' usual one.
        by: settings that make arms, beside those that the sweep's command sweeps; under today's name or
            the first one.

    Returns:
        The arms and blocks of every run, usable or not.

    Raises:
        ValueError: if there is no run, or an axis or the baseline is not there, naming what is.
    """
    if not export.records:
        raise ValueError(
            "there is no run in it; python -m mirrorpo status SWEEP says what became of its cells"
        )
    planned = _planned(export)
    records = export.records
    varying = [name for name in AXES if len({row[name] for row in records if row[name] is not None}) > 1]
    axis = axis or next((name for name in MAIN if name in varying), "divergence")
    if axis not in AXES:
        raise ValueError(
            f"axis={axis}: choose one of {', '.join(AXES)}; a setting below an axis is given with --by"
        )
    swept = [key for key in dict.fromkeys([*map(current_key, by), *planned]) if key not in (*AXES, "seed")]
    others = [name for name in varying if name != axis]
    settings = {row["run"]: identity(json.loads(row["config"])) if row["config"] else {} for row in records}
    known = [of_run for of_run in settings.values() if of_run]
    _refuse_unknown(by, known)
    scalars = {key for of_run in known for key in of_run}
    groups = [key for key in swept if key not in scalars and key not in ADDED]
    settings = {
        row["run"]: _with_swept(row, swept, groups, of_run) if (of_run := settings[row["run"]]) else of_run
        for row in records
    }
    known = [of_run for of_run in settings.values() if of_run]
    swept = [key for key in swept if len({str(of_run.get(key)) for of_run in known}) > 1]
    runs = [_run(row, settings[row["run"]], axis, swept, others) for row in records]
    arms = list(dict.fromkeys(run.arm for run in runs))
    return Design(
        axis=axis,
        baseline=baseline if baseline in arms else _baseline(runs, axis, arms, baseline),
        swept=swept,
        others=others,
        runs=runs,
        planned_seeds=[int(seed) for seed in planned.get("seed", [])],
        planned_arms=planned.get(axis, []),
        along=_along(export),
    )


def _planned(export: Export) -> dict[str, list[str]]:
    """What the commands of the sweep sweep: the choices of each setting, in the order typed."""
    planned: dict[str, list[str]] = {}
    for command in export.commands:
        for key, values in swept_settings([*command["typed"], *command["written"]]).items():
            planned[key] = list(dict.fromkeys([*planned.get(key, []), *values]))
    return planned


def _along(export: Export) -> dict[str, Json]:
    """Settings under today's names by the choice that they come with."""
    return {
        choice: {current_key(key): value for key, value in settings.items()}
        for command in export.commands
        for choice, settings in settings_along(command).items()
    }


def _with_swept(row: Json, swept: Sequence[str], groups: Sequence[str], settings: Json) -> Json:
    """A run's settings with what its identity leaves out of what was swept.

    A setting that came after the first runs is left out at the value of before. A group, such as an
    importance correction, is a node of settings and none itself; its choice stands in the run's command.
    """
    command = json.loads(row["command"] or "[]") if groups else []
    typed = dict(text.split("=", 1) for text in command if "=" in text)
    classes = {key: str(settings.get(f"{key}._target_", "none")).rpartition(".")[2] for key in groups}
    chosen = {key: typed.get(key, name) for key, name in classes.items()}
    return {**{key: ADDED[key] for key in swept if key in ADDED}, **chosen, **settings}


def _refuse_unknown(by: Sequence[str], known: Sequence[Json]) -> None:
    """Check that every setting that is to make arms is one of some run."""
    groups = {key.removesuffix("._target_") for of_run in known for key in of_run}
    names = sorted({*AXES, "seed", *ADDED, *groups}.union(*known))
    for key in by:
        if current_key(key) not in names:
            close = get_close_matches(key, names, n=3)
            meant = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(f"by={key}: no run has such a setting; {meant}they have {', '.join(names)}")


def _run(row: Json, settings: Json, axis: str, swept: Sequence[str], others: Sequence[str]) -> Run:
    # A setting below a block's axis belongs to the block, all others to the arm.
    outside = [key for key in swept if key.split(".")[0] in others]
    inside = [key for key in swept if key not in outside and key in settings]
    arm = [
        _choice(row, axis),
        *(f"{key.removeprefix(axis + '.')}={settings[key]}" for key in inside),
    ]
    block = [*(str(row[name]) for name in others), *(f"{key}={shown(settings.get(key))}" for key in outside)]
    return Run(row, settings, " ".join(arm), ", ".join(block))


def _choice(row: Json, axis: str) -> str:
    return str(row[axis] or "unknown")


def _baseline(runs: Sequence[Run], axis: str, arms: Sequence[str], named: str | None) -> str:
    choices = {run.arm: _choice(run.row, axis) for run in runs}
    wanted = (named,) if named else (*BASELINES.get(axis, ()), choices[runs[0].arm])
    for choice in wanted:
        # A choice of several columns, such as "kl 0.04", may be named by its first.
        candidates = [arm for arm in arms if choice in (choices[arm], choices[arm].split(" ")[0])]
        if len(candidates) > 1 and named:
            raise ValueError(f"baseline={named}: there are {candidates}; name one of them whole")
        if candidates:
            # Of several strengths of the usual baseline the one with the most runs, the first of equals.
            counts = Counter(run.arm for run in runs)
            return max(candidates, key=lambda arm: counts[arm])
    raise ValueError(f"no run with {axis}={named}: the arms are {sorted(arms)}")
