"""Checkpoints that are complete or absent."""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mirrorpo.runs import sync_folder, write_atomic

log = logging.getLogger(__name__)

STATE, DIGEST = "state.pt", "sha256"


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the checkpoint of a step beside, sync it, rename it; then drop all but the newest `keep`.

    A kill at any instant leaves the older checkpoints as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".step_{step:06d}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    with (beside / STATE).open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    write_atomic(beside / DIGEST, _digest(beside / STATE) + "\n")
    final = folder / f"step_{step:06d}"
    # A damaged checkpoint of the same step was passed over at resume; a rename cannot replace it.
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    sync_folder(folder)
    names = complete_names(folder)
    # A run saves upwards: what lies ahead of it was damaged and passed over.
    ahead = [name for name in names if name > final.name]
    for name in [*ahead, *[name for name in names if name not in ahead][:-keep]]:
        shutil.rmtree(folder / name)


def complete_names(folder: Path) -> list[str]:
    """Names of the renamed checkpoints, oldest first; their content is verified by `newest`."""
    return sorted(path.name for path in folder.glob("step_*")) if folder.exists() else []


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint whose content is what was written, on the CPU; None when there is none.

    A damaged one is passed over with a warning.
    """
    for name in reversed(complete_names(folder)):
        path = folder / name
        if _intact(path):
            return torch.load(path / STATE, map_location="cpu", weights_only=True)
        log.warning("checkpoint %s is damaged; going on from the one before", path)
    return None


def _intact(path: Path) -> bool:
    state, digest = path / STATE, path / DIGEST
    return state.exists() and digest.exists() and digest.read_bytes().strip() == _digest(state).encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
