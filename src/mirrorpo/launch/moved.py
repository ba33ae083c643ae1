"""Whether a sweep lies where its commands make it, or was moved or copied since. Imports no torch."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from mirrorpo.config.values import JsonObject
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.launches import LAUNCHES, Launch, launches
from mirrorpo.launch.sweeps import own_runs
from mirrorpo.run.errors import RunError
from mirrorpo.run.manifest import MANIFEST, read_manifest, recovered


def refuse_elsewhere(sweep: Path, launch: Launch) -> None:
    """Check that a command makes its cells in this folder, and that the folder where it was given is there.

    Raises:
        LaunchError: with the command that makes them here.
    """
    made = made_in(sweep, launch)
    if made is not None and not _same(made, sweep):
        fault = f"its command makes cells in {made}, from where this folder was moved or copied"
    elif not os.path.isdir(launch.cwd):
        fault = f"its command was given in {launch.cwd}, which is gone"
    else:
        return
    # Imported here, so that whoever only looks does not wait for Hydra.
    from mirrorpo.config.override_text import quoted
    from mirrorpo.launch.arguments import SPECIAL

    out, name = (quoted(text) if SPECIAL.search(text) else text for text in (str(sweep.parent), sweep.name))
    typed = [word for word in launch.argv if not word.startswith(("out=", "name="))]
    here = shlex.join(["python", *typed, f"out={out}", f"name={name}"])
    raise LaunchError(f"{sweep / LAUNCHES}: {fault}; give it with out= and name= of this one: {here}")


def refuse_copy(sweep: Path) -> None:
    """Check that the launchers and jobs that a sweep has noted are its own.

    Raises:
        LaunchError: if they are of the folder that this one was copied from.
    """
    given = []
    # What runs is stopped all the same where the commands cannot be read.
    with suppress(LaunchError):
        given = launches(sweep)
    made = made_in(sweep, given[-1]) if given else None
    if made is not None and made.is_dir() and not _same(made, sweep):
        raise LaunchError(
            f"{sweep} is a copy of {made}, whose launchers and jobs are noted here: cancel there"
        )


def made_in(sweep: Path, launch: Launch) -> Path | None:
    """The folder of the sweep that a command makes; None where nobody wrote it down.

    Args:
        sweep: the folder that the command is noted in.
        launch: the command.
    """
    if launch.folder:
        return Path(launch.folder)
    # Of an older version: what its cells say.
    runs = own_runs(sweep) if launch.cells is None else [sweep / cell for cell in launch.cells]
    for config in map(_config, runs):
        if isinstance(out := config.get("out"), str) and isinstance(name := config.get("name"), str):
            return Path(launch.cwd) / out / name
    return None


def _config(run: Path) -> JsonObject:
    manifest: JsonObject = {}
    with suppress(RunError):
        manifest = read_manifest(run / MANIFEST)
    if not manifest and (source := recovered(run)) is not None:
        manifest = source[0]
    return manifest.get("config") or {}


def _same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    # One disk may be mounted under two names.
    try:
        return one.samefile(other)
    except OSError:
        return False
