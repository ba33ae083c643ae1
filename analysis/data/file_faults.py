"""What in a run's files is not what the run wrote, by the sizes and digests of its manifest.

A run that is not done has none yet, and one of an older version has sizes alone. Checkpoints and the policy
may have been taken away to save room: no table is made of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mirrorpo.run.disk import file_digest
from mirrorpo.run.manifest import SEAL, RunState

# Below these nothing is read by tables, and files are large.
LARGE = ("checkpoints/", "policy/")
# A run that has not ended has no digests.
ENDED = (RunState.DONE, RunState.STALE)
# What a manifest says of the run's files and of itself.
DIGESTS = ("files", "sha256", "sha256_beside", SEAL)
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
    if manifest.get("state") not in ENDED:
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


def lost_digests(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each manifest the digests that it lacks and that other ended runs of its code have; "" if none.

    One version of the code writes the same digests for all runs.
    """
    of_code: dict[str, set[str]] = defaultdict(set)
    for manifest in manifests:
        if manifest.get("state") in ENDED:
            of_code[str(manifest.get("code"))] |= {name for name in DIGESTS if manifest.get(name)}
    return [_lost(manifest, of_code) for manifest in manifests]


def _lost(manifest: Mapping[str, Any], of_code: Mapping[str, set[str]]) -> str:
    known = of_code.get(str(manifest.get("code")), set()) if manifest.get("state") in ENDED else set()
    lost = [name for name in DIGESTS if name in known - set(manifest)]
    text = f"manifest.json has lost {', '.join(lost)}, which other runs of the same code have"
    return f"{text}: take it from a copy" if lost else ""


def order_fault(steps: list[int]) -> Iterator[str]:
    """What is wrong with the order of the steps of a metrics file."""
    for before, after in pairwise(steps):
        if after <= before:
            again = "twice" if after in steps[: steps.index(before) + 1] else f"behind step {before}"
            yield f"metrics.jsonl has step {after} {again}: its rows were not written by one run"
            return
