"""What in a run's files is not what the run wrote, by the sizes and digests of its manifest.

A run that is not done has none yet, and one of an older version has sizes alone. Checkpoints and the policy
may have been taken away to save room: no table is made of them.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from mirrorpo.run.disk import file_digest
from mirrorpo.run.manifest import RunState

# Below these nothing is read by tables, and files are large.
LARGE = ("checkpoints/", "policy/")
# What tables are made of, whose absence is a fault.
NEEDED = ("metrics.jsonl", "eval/")


def file_faults(
    folder: Path, manifest: Mapping[str, Any], *, answers: bool, complete: bool = True
) -> list[str]:
    """A readable line for each file that is gone or another one.

    Args:
        folder: of the run, wherever it has been moved to.
        manifest: of the run.
        answers: whether the rows of evaluations are read.
        complete: whether the folder should have all files that tables are made of.
    """
    if manifest.get("state") not in (RunState.DONE, RunState.STALE):
        return []
    sizes: Mapping[str, int] = manifest.get("files") or {}
    digests: Mapping[str, str] = {**(manifest.get("sha256") or {}), **(manifest.get("sha256_beside") or {})}
    names = [name for name in dict.fromkeys([*sizes, *digests]) if answers or not name.startswith("eval/")]
    found = ((name, _fault(folder / name, name, sizes.get(name), digests.get(name))) for name in names)
    return [
        f"{name} {fault}"
        for name, fault in found
        if fault and (complete or fault is not GONE) and (fault is not GONE or name.startswith(NEEDED))
    ]


GONE = "is gone: copy the run's folder again, or launch the run again"
OTHER = "is not what the run wrote: copy the run's folder again, or launch the run again"


def _fault(path: Path, name: str, size: int | None, digest: str | None) -> str:
    if not path.is_file():
        return GONE
    if size is not None and path.stat().st_size != size:
        return OTHER
    read = digest is not None and not name.startswith(LARGE)
    return OTHER if read and file_digest(path) != digest else ""


def order_fault(steps: list[int]) -> Iterator[str]:
    """What is wrong with the order of the steps of a metrics file."""
    for before, after in pairwise(steps):
        if after <= before:
            again = "twice" if after in steps[: steps.index(before) + 1] else f"behind step {before}"
            yield f"metrics.jsonl has step {after} {again}: its rows were not written by one run"
            return
