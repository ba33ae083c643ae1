"""What the columns of somebody else's runs mean: which make the arms, which is the seed, the step, a metric.

A map is YAML; every key may be left out, and what is left out is guessed from the names that a known trainer
logs.

    divergence: beta                 # axis: a setting, or several; its value names the choice
    algo: [loss_type, epsilon_high]
    model: =Qwen3-1.7B               # the same for all runs
    seed: seed
    step: train/global_step
    metrics: {eval/greedy_accuracy: eval/rewards/accuracy/mean}
    name: '(?P<divergence>\\w+)-(?P<seed>\\d+)'   # or read off the run's name
    ignore: [output_dir, run_name]   # settings that differ and change no number
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

import yaml

from analysis.data.schema import AXES, Json, JsonObject

METRICS = ("eval/greedy_accuracy", "eval/pass@1")
NAMED_BY_SUITE = "".join(f"{axis}=(?P<{axis}>[^,/]+),?" for axis in AXES) + r"[^/]*[/_]seed=(?P<seed>\d+)"
CONSTANT = "="


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """Which column of a run is what.

    Attributes:
        trainer: whose names these are; "" where nobody's are known.
        axes: for each axis the settings whose values name the choice; one that begins with "=" is the choice.
        seed: the setting that holds the seed.
        step: the column of the history that holds the step; "" is W&B's own.
        metrics: this suite's name of a metric to the run's name of it.
        name: pattern over the run's name whose groups are axes and `seed`; "" reads nothing off it.
        ignore: settings that are left out, with wildcards.
    """

    trainer: str = ""
    axes: Mapping[str, Sequence[str]]
    seed: str = "seed"
    step: str = ""
    metrics: Mapping[str, str]
    name: str = ""
    ignore: Sequence[str] = ()

    def changed(self, given: Json) -> Self:
        """The map with what a file says in place of what was guessed."""
        axes = {axis: _columns(given[axis]) for axis in AXES if axis in given}
        other = {key: given[key] for key in ("seed", "step", "name", "ignore") if key in given}
        metrics = {**self.metrics, **given.get("metrics", {})}
        return replace(self, axes={**self.axes, **axes}, metrics=metrics, **other)

    def read_off_name(self, name: str) -> Mapping[str, str]:
        """Axes and seed, as far as the run's name holds them."""
        match = re.search(self.name, name) if self.name else None
        return {} if match is None else {key: text for key, text in match.groupdict().items() if text}

    def choices(self, settings: Json, name: str) -> dict[str, str]:
        """The choice on each axis that the map knows."""
        out: dict[str, str] = {}
        for axis, columns in self.axes.items():
            parts = [_choice(column, settings) for column in columns]
            if any(parts):
                out[axis] = " ".join(part for part in parts if part)
        return out | {key: text for key, text in self.read_off_name(name).items() if key in AXES}

    def seed_of(self, settings: Json, name: str) -> int | None:
        """The seed, from the name or the settings."""
        value = self.read_off_name(name).get("seed", settings.get(self.seed))
        try:
            return None if value is None else int(float(value))
        except (TypeError, ValueError):
            return None

    def kept(self, settings: Json) -> JsonObject:
        """The settings under the axis that they make choices on, without those that change no number."""
        axis_of = {column: axis for axis, columns in self.axes.items() for column in columns}
        out: JsonObject = {}
        for key, value in settings.items():
            if key != self.seed and not any(fnmatchcase(key, pattern) for pattern in self.ignore):
                out[f"{axis_of[key]}.{key}" if key in axis_of else key] = value
        return out

    def rows(self, rows: Sequence[Json]) -> list[JsonObject]:
        """A history by the map's steps and with its metrics; what two rows say of one step is one row.

        Rows before the first with a step are of step 0; where none has the map's step, their own counts.
        """
        by_step: dict[int, JsonObject] = {}
        column = self.step if any(self.step in row for row in rows) else "step"
        step = 0
        for row in rows:
            step = int(row.get(column, step))
            by_step.setdefault(step, {"step": step}).update(
                {key: value for key, value in row.items() if key != "step" and value is not None}
            )
        for row in by_step.values():
            row.update({ours: row[theirs] for ours, theirs in self.metrics.items() if theirs in row})
        return [by_step[step] for step in sorted(by_step)]

    def __str__(self) -> str:
        """What is read as what, for a person."""
        parts = [f"{axis} from {', '.join(columns)}" for axis, columns in self.axes.items()]
        parts += [f"axes and seed from names like {self.name}"] if self.name else []
        parts += [f"seed from {self.seed}", f"step from {self.step or '_step'}"]
        parts += [f"{ours} from {theirs}" for ours, theirs in self.metrics.items()]
        parts += [f"without {', '.join(self.ignore)}"] if self.ignore else []
        return "; ".join(parts)


def _columns(value: object) -> list[str]:
    return [str(column) for column in value] if isinstance(value, list) else [str(value)]


def _choice(column: str, settings: Json) -> str:
    if column.startswith(CONSTANT):
        return column.removeprefix(CONSTANT)
    value = settings.get(column)
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{column}={value}"


@dataclass(frozen=True, kw_only=True)
class _Trainer:
    # Settings that only this trainer has, and its map; of a metric's names the first that is there counts.
    known_by: Sequence[str]
    columns: ColumnMap
    metrics: Mapping[str, Sequence[str]]


TRAINERS = (
    _Trainer(
        known_by=("algo.*", "divergence.*", "weighting.*"),
        columns=ColumnMap(trainer="mirrorpo", axes={}, metrics={}, name=NAMED_BY_SUITE),
        metrics={},
    ),
    _Trainer(
        known_by=("num_generations", "max_completion_length"),
        columns=ColumnMap(
            trainer="TRL",
            axes={"algo": ["loss_type"], "divergence": ["beta"], "model": ["_name_or_path"]},
            metrics={},
            step="train/global_step",
            ignore=("output_dir", "run_name", "logging_dir", "hub_*", "report_to", "data_seed"),
        ),
        metrics={
            "eval/greedy_accuracy": ("eval/rewards/*accura*/mean", "eval/rewards/*accura*", "eval/reward"),
        },
    ),
    _Trainer(
        known_by=("actor_rollout_ref.*", "algorithm.adv_estimator"),
        columns=ColumnMap(
            trainer="verl",
            axes={
                "algo": ["algorithm.adv_estimator"],
                "divergence": [
                    "actor_rollout_ref.actor.kl_loss_type",
                    "actor_rollout_ref.actor.use_kl_loss",
                ],
                "model": ["actor_rollout_ref.model.path"],
                "dataset": ["data.train_files"],
            },
            metrics={},
            seed="data.seed",
            step="training/global_step",
            ignore=("trainer.experiment_name", "trainer.default_local_dir", "trainer.logger"),
        ),
        metrics={
            "eval/greedy_accuracy": ("val-core/*/acc/mean@1", "val-core/*/mean@*", "val/test_score/*"),
        },
    ),
)


def guessed(settings: Iterable[str], metrics: Iterable[str], given: Json) -> ColumnMap:
    """The map of a run, from the names that it has.

    Args:
        settings: dotted names.
        metrics: names of its history.
        given: what a file says, which counts before any guess.
    """
    known, logged = set(settings), sorted(metrics)
    for trainer in TRAINERS:
        if all(any(fnmatchcase(key, pattern) for key in known) for pattern in trainer.known_by):
            there = {
                ours: next((name for pattern in patterns for name in _matching(logged, pattern)), "")
                for ours, patterns in trainer.metrics.items()
            }
            metrics_there = {ours: name for ours, name in there.items() if name}
            return replace(trainer.columns, metrics=metrics_there).changed(given)
    return ColumnMap(axes={}, metrics={}, name=NAMED_BY_SUITE).changed(given)


def _matching(names: Sequence[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def read_map(path: Path | None) -> JsonObject:
    """What a file says of the columns; nothing without one.

    Raises:
        ValueError: naming the file and the key, if it is not a map of columns.
    """
    if path is None:
        return {}
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--map {path}: cannot be read as YAML ({error})") from error
    keys = [*AXES, *(field.name for field in fields(ColumnMap) if field.name not in ("trainer", "axes"))]
    if not isinstance(given, dict):
        raise ValueError(f"--map {path}: no keys with columns; the keys are {', '.join(keys)}")
    if unknown := [key for key in given if key not in keys]:
        raise ValueError(f"--map {path}: no such key {unknown}; the keys are {', '.join(keys)}")
    if not isinstance(given.get("metrics", {}), dict):
        raise ValueError(f"--map {path}: metrics is a map, as in metrics: {{{METRICS[0]}: eval/accuracy}}")
    try:
        groups = set(re.compile(given.get("name") or "").groupindex)
    except re.error as error:
        raise ValueError(f"--map {path}: name is no pattern ({error})") from error
    if wrong := groups - {*AXES, "seed"}:
        raise ValueError(
            f"--map {path}: name has groups {sorted(wrong)}; they are of {', '.join(AXES)}, seed"
        )
    return given
