"""Cells of a multirun as a SLURM job array, submitted with submitit."""

import json
import math
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
from mirrorpo.launch.launcher import CellLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.launch.program import MODULE, SCRIPT
from mirrorpo.launch.scheduler import BATCHES, SchedulerError, largest_array
from mirrorpo.launch.snapshot import DirtyTree, snapshot
from mirrorpo.launch.status import rows
from mirrorpo.run.folder import RunState, timestamp, write_atomic


class SlurmLauncher(CellLauncher):
    """One job array for what is left of a sweep, a job a cell; submits and returns.

    A job is `train.py` itself, from a copy of the code that was submitted; without a clone it is
    `python -m mirrorpo train` of the installed package. Ahead of its time limit, or of a
    preemption that SLURM announces, it writes a checkpoint and has itself queued again under its id.

    Attributes:
        timeout_min: a job's time limit; a run that needs longer takes several turns.
        signal_delay_s: seconds before the limit at which the run is asked to stop: more than its longest step
            takes.
        partition, qos, account, constraint, exclude: as sbatch has them; None: the cluster's own.
        nodes, tasks_per_node, cpus_per_task, gpus_per_node, mem_gb: what a job gets; None: the cluster's own.
        With more than one
            task a cell is trained by as many processes, each on a GPU of its own.
        array_parallelism: jobs of the sweep that may run at once.
        lines: further `#SBATCH` options, such as {mail-type: FAIL}; null for one without a value.
        setup: shell commands before the run, such as `module load cuda`.
        wait: stay until every cell has ended, and then name every failure.
        poll_s: seconds between two looks while waiting.
        allow_dirty: run a tree with uncommitted changes, as a marked copy.
    """

    def __init__(
        self,
        *,
        timeout_min: int,
        signal_delay_s: int,
        partition: str | None,
        qos: str | None,
        account: str | None,
        constraint: str | None,
        exclude: str | None,
        nodes: int,
        tasks_per_node: int,
        cpus_per_task: int | None,
        gpus_per_node: int | None,
        mem_gb: float | None,
        array_parallelism: int,
        lines: Mapping[str, Any],
        setup: Sequence[str],
        wait: bool,
        poll_s: float,
        allow_dirty: bool,
        only: Sequence[str] | None,
        dry_run: bool,
    ) -> None:
        super().__init__(only=only, dry_run=dry_run)
        if not 0 < signal_delay_s < 60 * timeout_min:
            raise SystemExit(
                f"error: hydra.launcher.signal_delay_s={signal_delay_s}, "
                f"hydra.launcher.timeout_min={timeout_min}: "
                "a run is asked to stop some seconds before its limit; give a delay between 0 and the limit"
            )
        if gpus_per_node is not None and gpus_per_node < tasks_per_node > 1:
            raise SystemExit(
                f"error: hydra.launcher.tasks_per_node={tasks_per_node}, "
                f"hydra.launcher.gpus_per_node={gpus_per_node}: "
                f"each process of a cell has a GPU of its own; set "
                f"hydra.launcher.gpus_per_node={tasks_per_node}"
            )
        self.devices_a_cell = (gpus_per_node or 0) * nodes
        self.wait, self.poll_s, self.allow_dirty, self._setup = wait, poll_s, allow_dirty, list(setup)
        given = {
            "time": timeout_min, "signal_delay_s": signal_delay_s, "partition": partition, "qos": qos, "account": account,
            "constraint": constraint, "exclude": exclude, "nodes": nodes, "ntasks_per_node": tasks_per_node, "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node, "mem": None if mem_gb is None else f"{math.ceil(1024 * mem_gb)}MB", "array_parallelism": array_parallelism,
            # The processes of a cell live and die together.
            "srun_args": ["--kill-on-bad-exit=1"] if nodes * tasks_per_node > 1 else None,
        }  # fmt: skip
        self._sbatch = {name: value for name, value in given.items() if value is not None}
        # --requeue: a node that fails must not cost the cell, whatever the cluster's default is.
        self._lines = {
            "requeue": True,
            **{name: True if value is None else value for name, value in lines.items()},
        }

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
        where = [os.path.relpath(job.folder.path.resolve(), self.sweep.resolve()) for job in cells]
        for job in cells:
            if not job.folder.manifest().get("launches"):
                job.folder.update_manifest(state=RunState.QUEUED)
        # Before sbatch, so that whatever is submitted can be found by its name.
        write_atomic(
            folder / "cells.json",
            json.dumps({"name": name, "cells": where, "code": str(code or paths.code())}, indent=1) + "\n",
        )
        executor = SlurmExecutor(folder)
        setup, start = list(self._setup), list(MODULE)
        if code is not None:
            # The user's own setup may set PYTHONPATH; the copy of the code stands before it.
            setup += [f"export PYTHONPATH={shlex.quote(str(code / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}"]
            start = [str(code / SCRIPT)]
        executor.update_parameters(
            job_name=name, setup=setup, additional_parameters=self._lines, **self._sbatch
        )
        commands = [[sys.executable, *start, *self.words_of(job)] for job in cells]
        jobs = executor.map_array(operator.call, [Become(command) for command in commands])
        self.say(f"submitted {len(cells)} cells as job {jobs[0].job_id.partition('_')[0]}")

    def _waited(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        places = {os.path.relpath(job.folder.path, self.sweep): place for place, job in enumerate(left)}
        said = ""
        while True:
            found = [row for row in rows(self.sweep.resolve()) if row.cell in places]
            counts = {state: sum(row.state == state for row in found) for state in RunState}
            told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            if told != said:
                self.say(f"{time.strftime('%H:%M:%S')}  {told}")
                said = told
            if not any(counts[state] for state in (RunState.QUEUED, RunState.RUNNING, RunState.REQUEUED)):
                return {
                    places[row.cell]: row.error or str(row.state)
                    for row in found
                    if row.state not in (RunState.DONE, RunState.STALE)
                }
            time.sleep(self.poll_s)
