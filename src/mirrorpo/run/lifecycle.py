"""The states of a run's folder from launch to end, as its manifest tells them. Imports no torch."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from omegaconf import OmegaConf

from mirrorpo.config.cell import Cell
from mirrorpo.run.folder import RunFolder, RunState, timestamp, write_atomic
from mirrorpo.run.preemption import Preempted, fruitless, requeue
from mirrorpo.run.settings_file import write_settings


class Finishes(Protocol):
    """What is told how the run ended, such as a tracker."""

    def finish(self, exit_code: int) -> None: ...


@contextmanager
def lifecycle(
    cell: Cell, folder: RunFolder, launch: Mapping[str, object], tracker: Finishes
) -> Iterator[None]:
    """Enter a launch in the manifest, and whatever ends it: done by the body itself, requeued, or failed with
    its reason.

    Args:
        cell: what runs.
        folder: where.
        launch: time, provenance and device of this launch.
        tracker: closed at the end, with the exit status.
    """
    manifest = folder.manifest()
    folder.update_manifest(
        state=RunState.REQUEUED if folder.metrics.path.exists() else RunState.RUNNING,
        config_hash=cell.hash,
        choices=dict(cell.choices),
        settings=dict(cell.settings),
        config=cell.config,
        started=manifest.get("started") or launch["time"],
        ended=None,
        error=None,
        launches=[*manifest.get("launches", []), dict(launch)],
        **launch,
    )
    write_settings(cell, folder)
    write_atomic(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(cell.config))))
    (folder.path / "error.txt").unlink(missing_ok=True)
    try:
        yield
    except Preempted:
        folder.update_manifest(state=RunState.REQUEUED, ended=timestamp())
        tracker.finish(os.EX_TEMPFAIL)
        raise
    except BaseException as error:
        (folder.path / "error.txt").write_text(traceback.format_exc())
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        folder.update_manifest(state=RunState.FAILED, ended=timestamp(), error=reason)
        tracker.finish(1)
        raise
    tracker.finish(0)


def enter(folder: RunFolder, step: int, codes: list[str]) -> None:
    """The launch is ready to go on after a step; `codes` made, or make, the run's steps."""
    *earlier, launch = folder.manifest()["launches"]
    folder.update_manifest(
        state=RunState.RUNNING, launches=[*earlier, launch | {"from_step": step}], codes=codes
    )


def finish(folder: RunFolder, codes: list[str]) -> None:
    """The last step is taken and everything is written: done, or stale when its steps are of more than one
    code.
    """
    mixed = (
        (
            f"its steps are of {len(codes)} versions of the code or its packages; `launches` in "
            "manifest.json has each"
        )
        if len(codes) > 1
        else None
    )
    folder.update_manifest(
        state=RunState.STALE if mixed else RunState.DONE, error=mixed, ended=timestamp(), files=folder.sizes()
    )


def requeue_or_exit(preempted: Preempted, folder: RunFolder, first: bool = True) -> int:
    """Have the job of a run that handed over queued again, where there is one, by the first of its processes,
    and give the exit status.

    Whoever sent SIGTERM either starts the job again itself (a preemption) or does not want it (scancel).
    """
    if preempted.signum == signal.SIGTERM or not first:
        problem = None
    elif fruitless(folder.manifest()["launches"]):
        problem = "no step was finished in its last three launches: give its job more time"
    else:
        problem = requeue()
    if problem:
        folder.update_manifest(state=RunState.FAILED, error=problem)
        print(f"error: {problem}", file=sys.stderr)
    print(f"\n{preempted}")
    return 128 + preempted.signum if preempted.signum == signal.SIGTERM else os.EX_TEMPFAIL
