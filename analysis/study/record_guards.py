"""What forbids a table because a run's records contradict each other: it is not what it says it is."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.data.schema import AXES, Json
from analysis.study.design import Run, current_key
from analysis.study.finding import Finding
from mirrorpo.config import paths
from mirrorpo.config.identity import config_hash, digest, flat, identity
from mirrorpo.config.renamed import TARGETS, renamed_arguments, upgraded

# The folder of a seed, in that of its cell.
SEED = re.compile(r"seed=(-?\d+)")
CLASS = "_target_"
Scalar = str | int | float | bool | None
# Whose arguments are a run's settings.
PROGRAMS = ("train.py", "mirrorpo", "__main__.py")


def contradictions(runs: Sequence[Run]) -> list[Finding]:
    """Runs whose files, manifest, config, command and folder do not agree."""
    out: list[Finding] = []
    for run in runs:
        out += [Finding("edited", f"{run}: {text}") for text in _edited(run.row)]
        out += [Finding("contradiction", f"{run}: {text}") for text in _contradicting(run.row)]
    return out


def _edited(row: Json) -> Iterator[str]:
    yield from json.loads(row.get("faults") or "[]")
    if row["config"] and row["config_hash"]:
        config = json.loads(row["config"])
        if config_hash(config) != row["config_hash"]:
            yield "its config is not the one that its config_hash is of: one of them was changed"


def _contradicting(row: Json) -> Iterator[str]:
    if not (row["config"] and row["config_hash"]):
        return
    config = upgraded(json.loads(row["config"]))
    yield from _other_id(row, config)
    yield from _other_folder(row)
    yield from _other_choices(row, config)
    yield from _other_settings(row, config)
    yield from _other_command(row, config)


def _other_id(row: Json, config: Json) -> Iterator[str]:
    # The second run of an id has a number behind it.
    run = row["run"].partition("#")[0]
    named = {"config": row["config_hash"], "name": config.get("name")}
    ids = [row["config_hash"], digest(named)[:16], digest({**named, "attempt": row.get("attempt")})[:16]]
    if run not in ids and re.fullmatch("[0-9a-f]{16}", run):
        yield f"its id {run} is not that of its config_hash, name and attempt: one of them was changed"


def _other_folder(row: Json) -> Iterator[str]:
    *_, cell, of_seed = ["", "", *str(row["source"]).split("/")]
    if (seed := SEED.fullmatch(of_seed)) and row["seed"] is not None and int(seed[1]) != row["seed"]:
        yield f"its folder says {of_seed}, and its config seed={row['seed']}: rename the folder"
    if row["came_from"] == "folder":
        parts = dict(part.split("=", 1) for part in cell.split(",") if "=" in part)
        yield from (
            f"its folder says {axis}={parts[axis]}, and its manifest {axis}={row[axis]}"
            for axis in AXES
            if row[axis] is not None and parts.get(axis, row[axis]) != row[axis]
        )


def _other_choices(row: Json, config: Json) -> Iterator[str]:
    settings = json.loads(row["settings"] or "{}")
    overridden = {current_key(key) for key in settings}
    of_config = flat(config)
    for axis in AXES:
        for key, value in choice_classes(axis, str(row[axis])).items():
            # A choice's file may be another one in later versions, but hardly its classes; a recipe may name
            # other classes below.
            named = of_config.get(key) if axis == "divergence" or key == f"{axis}.{CLASS}" else None
            if key not in overridden and named is not None and named != value:
                yield f"{axis}={row[axis]} has {key}={value}, and its config {named}"


@cache
def choice_classes(axis: str, choice: str) -> Mapping[str, str]:
    """The classes that a choice's file names, by dotted setting; empty of somebody else's choice."""
    path = paths.conf() / axis / f"{choice}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text()) or {}
    out: dict[str, str] = {}
    for other in content.pop("defaults", []):
        if isinstance(other, str) and other != "_self_":
            out |= choice_classes(axis, other)
    named = flat({axis: content})
    return out | {key: str(value) for key, value in named.items() if key.endswith(CLASS)}


def _other_settings(row: Json, config: Json) -> Iterator[str]:
    known = identity(config)
    for key, value in json.loads(row["settings"] or "{}").items():
        name, wanted = current_key(key), TARGETS.get(value, value) if isinstance(value, str) else value
        if _differ(known.get(name), wanted):
            yield f"its settings say {name}={value}, and its config {known.get(name)}"


def _other_command(row: Json, config: Json) -> Iterator[str]:
    of_config = flat(config)
    program, *arguments = json.loads(row.get("command") or "[]") or [""]
    if PurePath(program.split(" ")[0]).name not in PROGRAMS:
        # What somebody's own script makes of its arguments is not known.
        return
    for key, value in _typed(tuple(arguments)).items():
        if key in AXES:
            if row[key] is not None and row[key] != str(value):
                yield f"its command says {key}={value}, and its manifest {key}={row[key]}"
        elif key in of_config and _differ(of_config[key], value):
            yield f"its command says {key}={value}, and its config {key}={of_config[key]}"


@cache
def _typed(arguments: Sequence[str]) -> Mapping[str, Scalar]:
    """The settings that a command gives one value, the last one where it gives several."""
    parser = OverridesParser.create()
    out: dict[str, Scalar] = {}
    for text in renamed_arguments(arguments)[0]:
        try:
            override = parser.parse_override(text)
        except HydraException:
            continue
        if override.is_delete() or override.is_sweep_override() or override.package is not None:
            continue
        value = override.value()
        if (value is None or isinstance(value, str | int | float | bool)) and "${" not in str(value):
            out[override.key_or_group] = cast(Scalar, value)
    return out


def _differ(recorded: object, value: object) -> bool:
    """Whether two values of a setting cannot be one; a text may stand for what it resolves to."""
    numbers = [isinstance(item, int | float) for item in (recorded, value)]
    if all(numbers):
        return float(cast(float, recorded)) != float(cast(float, value))
    if isinstance(recorded, str) and isinstance(value, str):
        return recorded != value
    return False
