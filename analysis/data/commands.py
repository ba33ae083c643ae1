"""The commands that were typed for a sweep, each with its claim and its recipe."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import yaml

from analysis.data.schema import Json, JsonObject
from mirrorpo.config.paths import file_of_sweep
from mirrorpo.launch.along import written_in
from mirrorpo.launch.launches import LAUNCHES, Launch, launches
from mirrorpo.launch.recipe import claim


class SweepCommand(TypedDict):
    """What was typed for a grid.

    Attributes:
        folder: of the grid.
        typed: overrides of the command line.
        written: overrides that stand in the sweep's file and were not typed.
        argv: Python's arguments, where the launcher noted them.
        claim: what the sweep's file says of itself, where the launcher noted it.
        along: settings by the choice that they come with, where the launcher noted them.
    """

    folder: str
    typed: list[str]
    written: list[str]
    argv: NotRequired[list[str]]
    claim: NotRequired[list[str]]
    along: NotRequired[dict[str, JsonObject]]


def sweep_commands(root: Path) -> list[SweepCommand]:
    """What was typed for the grids below a folder, in the order of their last launch.

    From the launcher's record, which has every command; Hydra's `multirun.yaml` has the last one alone.
    """
    out: list[SweepCommand] = []
    folders = {path.parent for name in (LAUNCHES, "multirun.yaml") for path in root.rglob(name)}
    for folder in sorted(folders):
        last = _multirun(folder)
        noted = [_of_launch(folder, launch, last) for launch in launches(folder)]
        known = any(command["typed"] == last["typed"] for command in noted) if last else True
        out += [*noted, *([last] if last and not known else [])]
    return out


def _multirun(folder: Path) -> SweepCommand | None:
    path = folder / "multirun.yaml"
    if not path.exists():
        return None
    try:
        hydra = yaml.safe_load(path.read_text())["hydra"] or {}
        typed = list((hydra.get("overrides") or {}).get("task") or [])
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{path}: is not what Hydra wrote ({why}); take it from a copy, or move it away"
        ) from error
    written = written_in(hydra.get("sweeper") or {}, typed)
    return {"folder": str(folder), "typed": typed, "written": written}


def _of_launch(folder: Path, launch: Launch, last: SweepCommand | None) -> SweepCommand:
    recipe = launch.recipe
    # An older version noted the arguments alone.
    typed = list(recipe.typed) or [
        argument
        for argument in launch.argv
        if "=" in argument and not argument.startswith(("-", "hydra.", "hydra/"))
    ]
    written = list(recipe.written)
    if not recipe.typed and last is not None and typed == last["typed"]:
        written = last["written"]
    argv, of_file = list(launch.argv), list(recipe.claim)
    command: SweepCommand = {"folder": str(folder), "typed": typed, "written": written, "argv": argv}
    if of_file:
        command["claim"] = of_file
    if recipe.along:
        command["along"] = dict(recipe.along)
    return command


def with_run_commands(commands: Sequence[SweepCommand], records: Iterable[Json]) -> list[SweepCommand]:
    """The commands of a sweep, and those that only its runs name: a later one had overwritten them.

    Args:
        commands: what was noted.
        records: rows of `runs`, whose commands name the sweep files that they are of.
    """
    named = {override for command in commands for override in command["typed"]}
    out: list[SweepCommand] = []
    for row in records:
        for argument in json.loads(row["command"] or "[]"):
            if argument.startswith("sweep=") and argument not in named:
                named.add(argument)
                out.append({"folder": "", "typed": [argument], "written": []})
    return [*out, *commands]


def claims(command: SweepCommand) -> list[str]:
    """What a command's sweep file says of itself: as it was at launch, else as it is now."""
    if noted := command.get("claim"):
        return noted
    return [line for path in _files(command) for line in claim(path)]


def settings_along(command: SweepCommand) -> dict[str, JsonObject]:
    """Settings by the choice that they come with: as they were at launch, else as the file has them now."""
    if (noted := command.get("along")) is not None:
        return noted
    nodes = [(yaml.safe_load(path.read_text()) or {}).get("hydra") or {} for path in _files(command)]
    along = [(node.get("sweeper") or {}).get("along") or {} for node in nodes]
    return {choice: settings for of_file in along for choice, settings in of_file.items()}


def _files(command: SweepCommand) -> list[Path]:
    """The sweep files that a command names and that there are."""
    names = [override.split("=", 1)[1] for override in command["typed"] if override.startswith("sweep=")]
    return [path for path in map(file_of_sweep, names) if path.is_file()]
