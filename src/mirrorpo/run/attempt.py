"""The attempt at a cell that a launch belongs to: what a W&B run is one of. Imports no torch."""

import secrets
from dataclasses import dataclass

from mirrorpo.config.cell import Cell
from mirrorpo.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Attempt:
    """From a run's first step to its last, over as many launches as it takes.

    Attributes:
        run_id: of its W&B run.
        new: whether this launch is its first.
    """

    run_id: str
    new: bool


def enter_attempt(cell: Cell, folder: RunFolder, *, restarted: bool) -> Attempt:
    """The attempt that goes on, or a new one; it stands in the manifest from here on.

    A server keeps the first number that it got for a step. So a run that starts anew, in a new folder or in
    its old one, needs another id for its numbers to be seen.

    Args:
        cell: what runs.
        folder: where.
        restarted: whether the run had got further before, and starts at step 0.
    """
    known = folder.manifest().get("wandb_id")
    if known and not restarted:
        return Attempt(known, new=False)
    token = secrets.token_hex(4)
    run_id = cell.run_id(token)
    folder.update_manifest(attempt=token, wandb_id=run_id)
    return Attempt(run_id, new=True)
