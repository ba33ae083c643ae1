"""The states of a run's folder from launch to end, as its manifest tells them. Imports no torch."""

import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from omegaconf import OmegaConf

from mirrorpo.config.cell import Cell
from mirrorpo.run.disk import release, write_atomic
from mirrorpo.run.errors import DiskError, RunError
from mirrorpo.run.folder import RunFolder, timestamp
from mirrorpo.run.manifest import CONFIG, RunState
from mirrorpo.run.preemption import STOP_SIGNAL, Preempted, StopRequest, fruitless, requeue, strongest
from mirrorpo.run.provenance import job_id
from mirrorpo.run.settings_file import write_settings

# Seconds that a mirror has at most before its job is queued again.
CLOSING_S = 5.0


class ClosesAtEnd(Protocol):
    """What is told how a run ended, and has no time to lose over it: a `Mirror`."""

    @property
    def problem(self) -> str | None: ...

    def finish(self, exit_code: int, within_s: float | None = None) -> None: ...


@contextmanager
def lifecycle(
    cell: Cell,
    folder: RunFolder,
    launch: Mapping[str, object],
    mirror: ClosesAtEnd,
    stop_request: StopRequest | None = None,
) -> Iterator[None]:
    """Enter a launch in the manifest, and whatever ends it: done by the body itself, requeued, or failed with
    its reason.

    Args:
        cell: what runs.
        folder: where.
        launch: time, provenance and device of this launch.
        mirror: closed at the end, with the exit status; what kept it from its work is entered too.
        stop_request: of the process that has its job queued again when the run hands over; None: another's.
    """
    _enter_launch(cell, folder, launch)
    status = 1
    try:
        yield
        status = 0
    except Preempted as preempted:
        status = os.EX_TEMPFAIL
        # Ctrl-C may have come since, while the checkpoint was written.
        since = stop_request.signum if stop_request is not None else None
        interrupted = strongest([preempted.signum, since]) == signal.SIGINT
        folder.update_manifest(
            state=RunState.INTERRUPTED if interrupted else RunState.REQUEUED, ended=timestamp()
        )
        if stop_request is not None:
            # SLURM ends W&B's processes with the job that it queues again, so those that answer come first.
            _close(mirror, folder, status, CLOSING_S if job_id() else None)
            hand_over(folder, stop_request)
        raise
    except BaseException as error:
        _fail(folder, error)
        raise
    finally:
        _close(mirror, folder, status)


def _close(mirror: ClosesAtEnd, folder: RunFolder, status: int, within_s: float | None = None) -> None:
    mirror.finish(status, within_s)
    if mirror.problem:
        with suppress(OSError, RunError):
            folder.update_manifest(mirror=mirror.problem)


def _enter_launch(cell: Cell, folder: RunFolder, launch: Mapping[str, object]) -> None:
    manifest = folder.manifest()
    text = OmegaConf.to_yaml(OmegaConf.create(dict(cell.config)))
    folder.update_manifest(
        state=RunState.REQUEUED if folder.metrics.path.exists() else RunState.RUNNING,
        config_hash=cell.hash,
        choices=dict(cell.choices),
        settings=dict(cell.settings),
        config=cell.config,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        started=manifest.get("started") or launch["time"],
        ended=None,
        error=None,
        launches=[*manifest.get("launches", []), dict(launch)],
        **launch,
    )
    write_settings(cell, folder)
    write_atomic(folder.path / CONFIG, text)
    (folder.path / "error.txt").unlink(missing_ok=True)


def _fail(folder: RunFolder, error: BaseException) -> None:
    # On a full disk the reserve is the room for this; where nothing can be written, the error itself is what
    # has to be seen.
    release(folder.path)
    named = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    reason = str(error) if isinstance(error, DiskError) else named
    by_hand = isinstance(error, KeyboardInterrupt)
    with suppress(OSError, RunError):
        folder.update_manifest(
            state=RunState.INTERRUPTED if by_hand else RunState.FAILED,
            ended=timestamp(),
            error="stopped at once by a second Ctrl-C" if by_hand else reason,
        )
        (folder.path / "error.txt").write_text(traceback.format_exc())


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
        state=RunState.STALE if mixed else RunState.DONE,
        error=mixed,
        ended=timestamp(),
        files=folder.sizes(),
        sha256=folder.digests(),
        sha256_beside=folder.digests_beside(),
    )


def hand_over(folder: RunFolder, stop_request: StopRequest) -> None:
    """Have the job of a run that was asked to hand over queued again, where there is one.

    Whoever sent SIGTERM, also since, either starts the job again itself (a preemption) or does not want it
    (scancel); whoever sent SIGINT sits before it.
    """
    if stop_request.signum != STOP_SIGNAL:
        return
    if fruitless(folder.manifest()["launches"]):
        problem = "no step was finished in its last three launches: give its job more time"
    else:
        problem = requeue(lambda: stop_request.signum != STOP_SIGNAL)
    if problem:
        folder.update_manifest(state=RunState.FAILED, error=problem)
        print(f"error: {problem}", file=sys.stderr)
