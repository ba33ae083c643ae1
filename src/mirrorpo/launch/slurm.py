"""Cells of a multirun as a SLURM job array, submitted with submitit."""

import json
import operator
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from mirrorpo.config import paths
from mirrorpo.launch.job import Become
from mirrorpo.launch.job_settings import JobSettings
from mirrorpo.launch.launcher import CellLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.launch.program import MODULE, SCRIPT
from mirrorpo.launch.scheduler import BATCHES, SchedulerError, largest_array
from mirrorpo.launch.snapshot import DirtyTree, snapshot
from mirrorpo.launch.status import rows
from mirrorpo.run.disk import write_atomic
from mirrorpo.run.folder import RunState, timestamp


class SlurmLauncher(CellLauncher):
    """One job array for what is left of a sweep, a job a cell; submits and returns.

    A job is `train.py` itself, from a copy of the code that was submitted; without a clone it is
    `python -m mirrorpo train` of the installed package. Ahead of its time limit, or of a
    preemption that SLURM announces, it writes a checkpoint and has itself queued again under its id.

    Attributes:
        wait: stay until every cell has ended, and then name every failure.
        poll_s: seconds between two looks while waiting.
        allow_dirty: run a tree with uncommitted changes, as a marked copy.
    """

    def __init__(
        self,
        *,
        wait: bool,
        poll_s: float,
        allow_dirty: bool,
        only: Sequence[str] | None,
        dry_run: bool,
        **job: Any,
    ) -> None:
        super().__init__(only=only, dry_run=dry_run)
        self.wait, self.poll_s, self.allow_dirty = wait, poll_s, allow_dirty
        self._job = JobSettings(**job)
        self.devices_a_cell = self._job.devices

    def run(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Submit the cells; while waiting, the reasons of those that failed."""
        try:
            tree = paths.tree()
            code = snapshot(tree, self.sweep.resolve(), allow_dirty=self.allow_dirty) if tree else None
            most = largest_array()
            for start in range(0, len(left), most):
                self._submit(left[start : start + most], code)
        except (DirtyTree, SchedulerError) as error:
            raise SystemExit(f"error: {error}") from error
        self.say(f"python -m mirrorpo.status {self.sweep} tells how it goes")
        return self._waited(left) if self.wait else {}

    def _submit(self, cells: Sequence[PlannedCell], code: Path | None) -> None:
        name = f"{self.sweep.name}.{secrets.token_hex(4)}"
        folder = self.sweep.resolve() / BATCHES / f"{timestamp()}.{name}"
        folder.mkdir(parents=True)
        paths_of_cells = [os.path.relpath(cell.folder.path.resolve(), self.sweep.resolve()) for cell in cells]
        for cell in cells:
            if not cell.folder.manifest().get("launches"):
                cell.folder.update_manifest(state=RunState.QUEUED)
        # Before sbatch, so that whatever is submitted can be found by its name.
        batch = {"name": name, "cells": paths_of_cells, "code": str(code or paths.code())}
        write_atomic(folder / "cells.json", json.dumps(batch, indent=1) + "\n")
        executor = SlurmExecutor(folder)
        setup, start = list(self._job.setup), list(MODULE)
        if code is not None:
            # The user's own setup may set PYTHONPATH; the copy of the code stands before it.
            setup += [f"export PYTHONPATH={shlex.quote(str(code / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}"]
            start = [str(code / SCRIPT)]
        executor.update_parameters(
            job_name=name,
            setup=setup,
            additional_parameters=self._job.further_lines(),
            **self._job.parameters(),
        )
        commands = [[sys.executable, *start, *self.arguments_of(cell)] for cell in cells]
        jobs = executor.map_array(operator.call, [Become(command) for command in commands])
        self.say(f"submitted {len(cells)} cells as job {jobs[0].job_id.partition('_')[0]}")

    def _waited(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        places = {os.path.relpath(cell.folder.path, self.sweep): place for place, cell in enumerate(left)}
        shown = ""
        while True:
            waited_for = [row for row in rows(self.sweep.resolve()) if row.cell in places]
            counts = {state: sum(row.state == state for row in waited_for) for state in RunState}
            summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            if summary != shown:
                self.say(f"{time.strftime('%H:%M:%S')}  {summary}")
                shown = summary
            if not any(counts[state] for state in (RunState.QUEUED, RunState.RUNNING, RunState.REQUEUED)):
                return {
                    places[row.cell]: row.error or str(row.state)
                    for row in waited_for
                    if row.state not in (RunState.DONE, RunState.STALE)
                }
            time.sleep(self.poll_s)
