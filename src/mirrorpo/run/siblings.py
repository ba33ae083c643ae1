"""Runs that differ from a cell in the number of steps alone. Imports no torch."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import differences
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.manifest import RunState


@dataclass(frozen=True, slots=True)
class ShorterRun:
    """A done run of the same settings with fewer steps.

    Attributes:
        folder: where it is.
        steps: how many it has.
    """

    folder: RunFolder
    steps: int


def longest_shorter_run(cell: Cell) -> ShorterRun | None:
    """The done run of the sweep that is this cell but for fewer steps, the longest of several."""
    shorter = [run for run in _done_runs(cell) if 0 < run.steps < cell.config["steps"]]
    return max(shorter, key=lambda run: run.steps, default=None)


def folder_to_go_on_from(cell: Cell) -> RunFolder:
    """The folder whose steps a launch would go on from: the cell's, or that of the run which it extends."""
    folder = RunFolder(cell.folder)
    if not cell.config["extend"] or any(folder.checkpoints.glob("step_*")):
        return folder
    shorter = longest_shorter_run(cell)
    return folder if shorter is None else shorter.folder


def _done_runs(cell: Cell) -> Iterator[ShorterRun]:
    # Settings beyond the axes are in a folder's name by their hash only.
    sweep, seed = cell.folder.parents[1], cell.folder.name
    axes = glob.escape(cell.label.partition(",settings=")[0])
    folders = [path.parent for path in sweep.glob(f"{axes}*/{seed}/manifest.json")]
    for path in sorted(folders):
        folder = RunFolder(path)
        try:
            manifest = folder.manifest()
        except RunError:
            # Whatever is wrong with it, it is no run to go on from.
            continue
        config = manifest.get("config", {})
        if manifest.get("state") not in (RunState.DONE, RunState.STALE):
            continue
        if differences(config, cell.config).keys() == {"steps"}:
            yield ShorterRun(folder, int(config["steps"]))


def shorter_run_note(cell: Cell) -> list[str]:
    """One line, where a cell that has not started would take steps anew that a shorter run has taken."""
    if cell.config["extend"] or RunFolder(cell.folder).manifest().get("launches"):
        return []
    run = longest_shorter_run(cell)
    if run is None:
        return []
    return [
        f"steps={cell.config['steps']} starts at step 0, though a done run of {run.steps} steps with these "
        "settings lies beside it; extend=true goes on from that, where the learning-rate schedule allows it"
    ]
