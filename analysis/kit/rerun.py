"""One run of an archive run again, and its `metrics.jsonl` compared byte for byte."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from analysis.data.runs import manifests
from analysis.data.schema import Json
from mirrorpo.config.paths import code, tree
from mirrorpo.run.manifest import read_manifest
from mirrorpo.run.provenance import NUMERIC, provenance

METRICS = "metrics.jsonl"
# Words of a run's command that say where it ran and who watched, and change no number.
OF_A_PLACE = ("--planned=", "out=", "tracking=", "tracking.", "hydra.mode=", "progress=")
# What two machines have to have alike for equal bytes, beside code and packages.
MACHINE = ("device", "ranks", "computed_in")
TAIL = 3


def rerun(root: Path, number: int, folder: Path) -> tuple[list[str], bool]:
    """What comes of running a run again, a readable line each, and whether its numbers are the same.

    Args:
        root: of the unpacked archive.
        number: of the run among its run folders in the order of their names, from 1.
        folder: where it may be written.

    Raises:
        ValueError: if there is no such run.
    """
    runs = [path.parent for path in manifests(root)]
    if not 1 <= number <= len(runs):
        listed = "; ".join(f"{place} {run.relative_to(root)}" for place, run in enumerate(runs, start=1))
        raise ValueError(f"--rerun {number}: the archive has the runs {listed or 'of an export, no folders'}")
    run = runs[number - 1]
    name, manifest = run.relative_to(root), read_manifest(run / "manifest.json")
    if reasons := _other_circumstances(manifest):
        return [f"NOT RUN AGAIN {name}: {'; '.join(reasons)}: {_cure(manifest)}"], False
    out = folder / "again"
    words = [*overrides(manifest["command"]), f"out={out}", "tracking=none"]
    result = subprocess.run(
        [sys.executable, "-m", "mirrorpo", "train", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree() or "")},
        capture_output=True,
        text=True,
        check=False,
    )
    made = manifests(out) if out.is_dir() else []
    if result.returncode or len(made) != 1:
        said = " ".join((result.stderr or result.stdout).strip().splitlines()[-TAIL:])
        return [f"NOT RUN AGAIN {name}: its command ended with {result.returncode}: {said}"], False
    return _compared(run, made[0].parent, str(name))


def _cure(manifest: Json) -> str:
    commit = manifest.get("commit")
    if not commit or manifest.get("dirty"):
        return "its code is not known by a commit, so that it cannot be had again"
    return f"check out commit {commit} and install its constraints.txt"


def overrides(command: Sequence[str]) -> list[str]:
    """The arguments of a run's command that decide its numbers.

    Example:
        >>> overrides(["train.py", "--planned=1,/there", "seed=1", "out=/there", "hydra.mode=RUN"])
        ['seed=1', 'hydra.mode=RUN']
    """
    kept = [word for word in command[1:] if not word.startswith(OF_A_PLACE)]
    # A sweep's file would make a grid of it.
    return [*kept, "hydra.mode=RUN"]


def _other_circumstances(manifest: Json) -> list[str]:
    """Why equal bytes are not to be expected here; empty where they are."""
    if not manifest.get("command") or not manifest.get("code"):
        return ["its manifest has no command, or no digest of its code"]
    here, there = provenance(code()), manifest
    ours: Mapping[str, object] = here["versions"]
    theirs: Mapping[str, object] = there.get("versions") or {}
    other = [
        f"{name} {theirs.get(name)} there, {ours.get(name)} here"
        for name in ("python", *NUMERIC)
        if theirs.get(name) != ours.get(name)
    ]
    if len(manifest.get("codes") or [manifest["code"]]) > 1:
        other.append("its steps are of several versions of the code")
    if not other and here["code"] != there["code"]:
        other.append(f"code {there['code']} there, {here['code']} here")
    return other


def _compared(run: Path, again: Path, name: str) -> tuple[list[str], bool]:
    before, now = ((folder / METRICS).read_bytes() for folder in (run, again))
    if before == now:
        return [f"{name} was run again: its {METRICS} is the same, byte for byte"], True
    there, here = (read_manifest(folder / "manifest.json") for folder in (run, again))
    lines = [f"FAULT {name} was run again and has another {METRICS}: {_first_difference(before, now)}"]
    reasons = [
        f"{key} {there.get(key)} there, {here.get(key)} here"
        for key in MACHINE
        if there.get(key) != here.get(key)
    ]
    processors = [manifest.get("machine", {}).get("cpu") for manifest in (there, here)]
    if processors[0] != processors[1]:
        reasons.append(f"processor {processors[0]} there, {processors[1]} here")
    if there.get("inputs") != here.get("inputs"):
        reasons.append("other data, weights or prompts")
    return [*lines, *([f"It ran elsewhere: {'; '.join(reasons)}"] if reasons else [])], False


def _first_difference(before: bytes, now: bytes) -> str:
    for line, (old, new) in enumerate(zip_longest(before.splitlines(), now.splitlines()), start=1):
        if old == new:
            continue
        if old is None or new is None:
            return f"{'fewer' if new is None else 'more'} rows, from line {line}"
        rows: list[Json] = [json.loads(old), json.loads(new)]
        names = [key for key in {**rows[0], **rows[1]} if rows[0].get(key) != rows[1].get(key)]
        if names:
            values = [row.get(names[0]) for row in rows]
            return f"{names[0]} of step {rows[0].get('step')} was {values[0]}, is {values[1]}"
        return f"line {line} has the same numbers in another form"
    return "another end"
