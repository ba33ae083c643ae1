"""The commands that made a sweep, for `retry`, and its launchers that run, for `cancel`. Imports no torch."""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from mirrorpo.config.values import JsonObject
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.recipe import UNKNOWN, Recipe, claims_no_other
from mirrorpo.launch.registration import NOTHING, Registration
from mirrorpo.run.disk import write_atomic
from mirrorpo.run.errors import unwritable
from mirrorpo.run.folder import timestamp
from mirrorpo.run.process import started

LAUNCHES = "launches.json"
LAUNCHERS = ".launchers"


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that was given for a sweep.

    Attributes:
        argv: Python's arguments, without the choice of cells and of a dry run.
        cwd: where.
        time: of the last time.
        cells: run folders that it makes, relative to the sweep's; None: of a version that did not note them.
        first: the first time that cells of it were launched under this plan.
        registered: what the sweep planned then.
        recipe: what it set out to do; empty of a version that did not note it.
        folder: the sweep's, in full; empty of a version that did not note it.
    """

    argv: Sequence[str]
    cwd: str
    time: str
    cells: Sequence[str] | None
    first: str = ""
    registered: Registration = NOTHING
    recipe: Recipe = UNKNOWN
    folder: str = ""

    def entry(self) -> JsonObject:
        """What stands in the file."""
        return {
            "argv": list(self.argv),
            "cwd": self.cwd,
            "time": self.time,
            "cells": None if self.cells is None else list(self.cells),
            **({"first": self.first} if self.first else {}),
            **self.registered.entries(),
            **({"recipe": asdict(self.recipe)} if self.recipe != UNKNOWN else {}),
            **({"folder": self.folder} if self.folder else {}),
        }


class _RecipeEntry(TypedDict, total=False):
    typed: list[str]
    written: list[str]
    claim: list[str]
    along: dict[str, JsonObject]


class _Entry(TypedDict):
    argv: list[str]
    cwd: str
    time: NotRequired[str]
    cells: NotRequired[list[str] | None]
    first: NotRequired[str]
    plan: NotRequired[JsonObject]
    plan_sha256: NotRequired[str]
    sweep: NotRequired[str]
    sweep_sha256: NotRequired[str]
    selection: NotRequired[JsonObject]
    recipe: NotRequired[_RecipeEntry]
    folder: NotRequired[str]


def launches(sweep: Path) -> list[Launch]:
    """The distinct commands that made this sweep, the last one given at the end.

    Raises:
        LaunchError: naming the file, if it is not what a launcher wrote.
    """
    file = sweep / LAUNCHES
    try:
        entries: list[_Entry] = json.loads(file.read_text()) if file.exists() else []
        return [_launch(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchError(
            f"{file}: is not what a launcher wrote ({error}); take it from a copy, or move it away"
        ) from error


def _launch(entry: _Entry) -> Launch:
    return Launch(
        argv=entry["argv"],
        cwd=entry["cwd"],
        time=entry.get("time", ""),
        cells=entry.get("cells"),
        first=entry.get("first", ""),
        registered=Registration(
            plan=entry.get("plan"),
            plan_sha256=entry.get("plan_sha256"),
            sweep=entry.get("sweep"),
            sweep_sha256=entry.get("sweep_sha256"),
            selection=entry.get("selection"),
        ),
        recipe=Recipe(**_known(Recipe, entry.get("recipe", {}))),
        folder=entry.get("folder", ""),
    )


def _known(kind: "type[Recipe] | type[Launcher]", entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without the fields of a later version."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in entry.items() if name in names}


def record_launch(
    sweep: Path,
    argv: Sequence[str],
    cells: Sequence[str],
    registered: Registration = NOTHING,
    *,
    recipe: Recipe = UNKNOWN,
) -> None:
    """Enter a command of this sweep; the caller holds the sweep's lock.

    Commands all of whose cells a later one has too leave, unless another plan, another file or another claim
    was recorded with them: what was planned at first stays known.

    Args:
        sweep: its folder.
        argv: Python's arguments.
        cells: run folders that the command makes, relative to the sweep's.
        registered: what the sweep planned.
        recipe: what the command set out to do.
    """
    entered = launches(sweep)
    # A search has other cells each generation.
    earlier = [cell for launch in entered if launch.argv == list(argv) for cell in launch.cells or ()]
    known, now = {*earlier, *cells}, timestamp()
    replaced = [
        other
        for other in entered
        if other.registered == registered
        and claims_no_other(other.recipe, recipe)
        and (other.argv == list(argv) or (other.cells is not None and known.issuperset(other.cells)))
    ]
    # An older version noted the last time alone.
    first = min((other.first or other.time for other in replaced if other.time), default=now)
    launch = Launch(
        list(argv),
        os.getcwd(),
        now,
        [*dict.fromkeys([*earlier, *cells])],
        first=first,
        registered=registered,
        recipe=recipe,
        folder=str(sweep.resolve()),
    )
    sweep.mkdir(parents=True, exist_ok=True)
    kept = [other for other in entered if other not in replaced]
    text = json.dumps([entry.entry() for entry in (*kept, launch)], indent=2)
    write_atomic(sweep / LAUNCHES, text + "\n")


def commands_for(given: Sequence[Launch], cells: Sequence[str]) -> list[tuple[Launch, list[str]]]:
    """The commands that make cells, each with those for which it is the last one that does.

    A command that did not note its cells may make any of them.

    >>> first, second = (Launch([name], "", "", cells) for name, cells in (("a", ["1", "2"]), ("b", ["2"])))
    >>> [(launch.argv, cells) for launch, cells in commands_for([first, second], ["1", "2", "3"])]
    [(['a'], ['1']), (['b'], ['2'])]
    """
    out, left = [], list(cells)
    for launch in reversed(given):
        known = set(left if launch.cells is None else launch.cells)
        made = [cell for cell in left if cell in known]
        if launch.cells is not None:
            left = [cell for cell in left if cell not in known]
        if made:
            out.append((launch, made))
    return out[::-1]


@dataclass(frozen=True, slots=True)
class Launcher:
    """A launcher's process.

    Attributes:
        file: its entry, which it takes away when it ends.
        host: its machine.
        pid: its process id, which the machine may have given to another process since.
        start: when it was started, as `run.process.started` has it.
    """

    file: Path
    host: str
    pid: int
    start: str | None

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, and is the process that was entered."""
        alive = None if self.host != socket.gethostname() else started(self.pid)
        return alive is not None and alive == self.start


@contextmanager
def entered(sweep: Path) -> Iterator[None]:
    """This process is a launcher of the sweep.

    Raises:
        LaunchError: if the sweep's folder cannot be written to.
    """
    host, pid = socket.gethostname(), os.getpid()
    file = sweep / LAUNCHERS / f"{host}.{pid}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"host": host, "pid": pid, "start": started(pid)}) + "\n")
    except OSError as error:
        raise LaunchError(unwritable(sweep, error)) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def launchers(sweep: Path) -> list[Launcher]:
    """The launchers of a sweep that have not ended, as far as this machine knows.

    Entries of this machine's processes that were killed are taken away.
    """
    out = []
    for file in sorted((sweep / LAUNCHERS).glob("*.json")):
        try:
            launcher = Launcher(file, **_known(Launcher, json.loads(file.read_text())))
        except FileNotFoundError:
            # It has ended in between.
            continue
        if launcher.host == socket.gethostname() and not launcher.here:
            file.unlink(missing_ok=True)
        else:
            out.append(launcher)
    return out
