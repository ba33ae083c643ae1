"""Cells of a multirun as SLURM job arrays, their scripts written by submitit."""

import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mirrorpo.config import paths
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.job import COMMANDS
from mirrorpo.launch.job_settings import JobSettings, is_limit
from mirrorpo.launch.launcher import CellLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.launch.program import MODULE, SCRIPT
from mirrorpo.launch.scheduler import (
    BATCHES,
    SchedulerError,
    SchedulerRefused,
    batches,
    job_name,
    largest_array,
    submit,
)
from mirrorpo.launch.snapshot import DirtyTree, snapshot
from mirrorpo.launch.status import Row, rows
from mirrorpo.run.disk import write_atomic
from mirrorpo.run.folder import timestamp
from mirrorpo.run.manifest import RunState

# Where the job's command goes in a script.
COMMAND = "@command@"


class SlurmLauncher(CellLauncher):
    """Job arrays for what is left of a sweep, a job a cell; submits and returns.

    A job is `train.py` itself, from a copy of the code that was submitted; without a clone it is
    `python -m mirrorpo train` of the installed package. Ahead of its time limit, or of a
    preemption that SLURM announces, it writes a checkpoint and has itself queued again under its id.

    An array that a limit refuses is submitted in parts. What cannot be submitted is named; earlier arrays
    stay.

    Attributes:
        wait: stay until every cell has ended, and then name every failure.
        poll_s: seconds between two looks while waiting.
        patience_s: seconds for a controller that does not answer.
        max_array: members of an array at most; None: as many as the cluster takes.
        allow_dirty: run a tree with uncommitted changes, as a marked copy.
    """

    def __init__(
        self,
        *,
        wait: bool,
        poll_s: float,
        patience_s: float,
        max_array: int | None,
        allow_dirty: bool,
        **settings: Any,
    ) -> None:
        cells = {name: settings.pop(name) for name in ("only", "dry_run", "fitness")}
        super().__init__(**cells)
        if max_array is not None and max_array < 1:
            raise LaunchError(f"hydra.launcher.max_array={max_array}: give at least 1, or null")
        if self.fitness is not None and not wait:
            raise LaunchError(
                f"hydra.launcher.fitness={self.fitness}: a cell has a fitness when it has ended; set "
                "hydra.launcher.wait=true"
            )
        self.wait, self.poll_s, self.allow_dirty = wait, poll_s, allow_dirty
        self.patience_s, self.max_array = patience_s, max_array
        self._job = JobSettings(**settings)
        self.devices_a_cell = self._job.devices

    def submit(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Submit the cells; the reasons of those that could not be, by their place."""
        try:
            tree = paths.tree()
            code = snapshot(tree, self.sweep.resolve(), allow_dirty=self.allow_dirty) if tree else None
            most = largest_array(patience_s=self.patience_s)
        except (DirtyTree, SchedulerError) as error:
            raise LaunchError(str(error)) from error
        most = min(most, self.max_array or most)
        start = 0
        while start < len(left):
            cells = left[start : start + most]
            try:
                self._submit(cells, code)
                start += len(cells)
            except SchedulerRefused as refused:
                if not is_limit(refused.reason) or len(cells) == 1:
                    return self._unsubmitted(left, start, self._job.cure(refused.reason))
                most = len(cells) // 2
                self.say(f"SLURM does not take {len(cells)} cells at once ({refused.reason}): trying {most}")
            except SchedulerError as error:
                return self._unsubmitted(left, start, str(error))
        self.say(f"python -m mirrorpo.status {self.sweep} tells how it goes")
        return {}

    def run(self, left: Sequence[PlannedCell], elsewhere: Sequence[PlannedCell]) -> Mapping[int, str]:
        """While waiting, the reasons of the cells that failed."""
        return self._waited(left, elsewhere) if self.wait else {}

    def _unsubmitted(self, left: Sequence[PlannedCell], start: int, why: str) -> Mapping[int, str]:
        self.unstarted = True
        if start == 0:
            raise LaunchError(f"{why}. None of the {len(left)} cells was submitted")
        self.say(f"{start} cells are submitted, {len(left) - start} are not: {why}")
        return dict.fromkeys(range(start, len(left)), f"not submitted: {why}")

    def _submit(self, cells: Sequence[PlannedCell], code: Path | None) -> None:
        sweep = self.sweep.resolve()
        name = job_name(sweep, secrets.token_hex(4))
        number = max((batch.number for batch in batches(sweep)), default=0) + 1
        folder = sweep / BATCHES / f"{timestamp()}.{name}"
        folder.mkdir(parents=True)
        new = [cell for cell in cells if not cell.folder.manifest().get("launches")]
        for cell in new:
            cell.folder.update_manifest(state=RunState.QUEUED)
        start = [*MODULE] if code is None else [str(code / SCRIPT)]
        commands = [[sys.executable, *start, *self.arguments_of(cell)] for cell in cells]
        write_atomic(folder / COMMANDS, json.dumps(commands, indent=1) + "\n")
        script = folder / "submission.sh"
        write_atomic(script, self._script(folder, name, len(cells), code))
        # Before sbatch, so that whatever is submitted can be found by its name.
        batch = {
            "name": name,
            "number": number,
            "cells": [os.path.relpath(cell.folder.path.resolve(), sweep) for cell in cells],
            "code": str(code or paths.code()),
        }
        write_atomic(folder / "cells.json", json.dumps(batch, indent=1) + "\n")
        try:
            job = submit(["sbatch", str(script)], name, patience_s=self.patience_s)
        except SchedulerRefused:
            # There is no such batch.
            shutil.rmtree(folder)
            for cell in new:
                cell.folder.update_manifest(state=RunState.PLANNED)
            raise
        self.say(f"submitted {len(cells)} cells as job {job}")

    def _script(self, folder: Path, name: str, count: int, code: Path | None) -> str:
        # Only where SLURM is used, so that a run does without it.
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder)
        setup = list(self._job.setup)
        if code is not None:
            # The user's own setup may set PYTHONPATH; the copy of the code stands before it.
            setup += [f"export PYTHONPATH={shlex.quote(str(code / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}"]
        executor.update_parameters(
            job_name=name,
            setup=setup,
            additional_parameters=self._job.further_lines(),
            **self._job.parameters(),
        )
        if count > 1:
            executor.parameters["map_count"] = count
        text = executor._make_submission_file_text(COMMAND, "")
        # In a log file's name SLURM replaces what follows a %.
        text = text.replace(str(folder), str(folder).replace("%", "%%"))
        command = [sys.executable, "-u", "-P", "-m", "mirrorpo.launch.job", str(folder)]
        return text.replace(COMMAND, shlex.join(command))

    def _waited(self, left: Sequence[PlannedCell], elsewhere: Sequence[PlannedCell]) -> Mapping[int, str]:
        name = partial(os.path.relpath, start=self.sweep)
        places = {name(cell.folder.path): place for place, cell in enumerate([*left, *elsewhere])}
        shown = ""
        while True:
            waited_for = self._look(places.keys())
            if waited_for is not None:
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

    def _look(self, watched: Collection[str]) -> list[Row] | None:
        """The rows of cells that are waited for; None while SLURM does not answer, which ends no job."""
        try:
            return [row for row in rows(self.sweep.resolve()) if row.cell in watched]
        except SchedulerError as error:
            self.say(f"{time.strftime('%H:%M:%S')}  {error}; the jobs go on, asking again")
            return None
