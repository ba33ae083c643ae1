"""`python -m analysis verify ARCHIVE`: its digests, its tables derived again, and one cell run again."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from analysis.data.schema import Json
from analysis.kit.contents import CHECKLIST, TABLES, derived, made_by
from analysis.kit.rerun import rerun
from analysis.kit.unpack import unpack
from analysis.study.options import StudyOptions


def verify(path: Path, again: int | None = None) -> tuple[list[str], bool]:
    """What holds of an archive and what does not, a readable line each, and whether all of it holds.

    Args:
        path: of the archive.
        again: the number of a run, from 1, that is run again; None: none is.

    Raises:
        ValueError: if it is no archive of a sweep, or has no run of that number.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "unpacking"
        target.mkdir()
        unpacked = unpack(path, target)
        if unpacked.faults:
            left = "Its tables were not derived again."
            return [*(f"FAULT {fault}" for fault in unpacked.faults), left], False
        lines = [f"{len(unpacked.contents['files'])} files have the sha256 that archive.json lists"]
        of_tables, equal = _tables(unpacked.root, unpacked.contents)
        lines += of_tables
        if again is None:
            return lines, equal
        of_run, same = rerun(unpacked.root, again, Path(folder))
        return [*lines, *of_run], equal and same


def _tables(root: Path, contents: Json) -> tuple[list[str], bool]:
    """What comes of deriving the tables again."""
    listed: Mapping[str, Json] = contents["files"]
    there = {name: entry["sha256"] for name, entry in listed.items() if name.startswith((TABLES, CHECKLIST))}
    try:
        _, texts = derived(root, StudyOptions(**contents["study"]))
    except ValueError as error:
        return [f"FAULT the tables cannot be derived again: {error}"], False
    here = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if not differing:
        count = sum(name.startswith(TABLES) and name.endswith(".md") for name in there)
        return [f"{count} tables and the checklist, derived again from its runs, are the same"], True
    lines = [f"FAULT {name}: {_difference(root / name, texts.get(name))}" for name in differing]
    return [*lines, *_other_maker(contents["made_by"])], False


def _difference(path: Path, text: str | None) -> str:
    if text is None:
        return "is not derived again from its runs"
    if not path.is_file():
        return "is derived from its runs and not in the archive"
    before, now = path.read_text().splitlines(), text.splitlines()
    pairs = ((old, new) for old, new in zip(before, now, strict=False) if old != new)
    old, new = next(pairs, (f"{len(before)} lines", f"{len(now)} lines"))
    return f"is another table when it is derived again: {old.strip()!r} there, {new.strip()!r} here"


def _other_maker(there: Mapping[str, str | None]) -> list[str]:
    """How the package that made the archive differs from this one."""
    here = made_by()
    other = [
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in here
        if there.get(name) != here[name]
    ]
    return [f"It was made by other code: {'; '.join(other)}"] if other else []
