"""What every launcher of cells does around running them: compose, check, skip what is done, name what
failed.
"""

import os
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from mirrorpo.launch.arguments import config_options, environment_of, for_each_cell
from mirrorpo.launch.equal_arms import refuse_equal_arms
from mirrorpo.launch.plan import Checker, Composer, PlannedCell, Siblings, said_once
from mirrorpo.launch.planned import Planned
from mirrorpo.launch.program import program
from mirrorpo.launch.scheduler import SchedulerError, jobs
from mirrorpo.launch.status import record_launch
from mirrorpo.run.settings_file import write_settings


class CellLauncher(Launcher):
    """Composes and checks the whole grid, then runs what is left of it.

    A cell that fails does not stop the others. At the end every failure is printed with its
    reason, and the exit status says that there was one.

    Attributes:
        only: cells to launch, as `mirrorpo.status` names them; None: all.
        dry_run: print what would be done and do nothing.
    """

    devices_a_cell = 0

    def __init__(self, *, only: Sequence[str] | None, dry_run: bool) -> None:
        self.only, self.dry_run = only, dry_run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.config = config
        # Cells are composed here as they are in their own processes.
        os.environ.update(environment_of(config))
        self.sweep = Path(config.hydra.sweep.dir)
        try:
            self._for_each_cell = for_each_cell(config)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        self._composer = Composer(hydra_context, config)
        self._console = Console(highlight=False, soft_wrap=True)

    @abstractmethod
    def run(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Run cells, or hand them to a scheduler; the reasons of those that failed, by their place."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells.

        Raises:
            SystemExit: with status 1, after all cells had their turn, if one failed.
        """
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise SystemExit(
                f"error: a sweep is launched by one process, this is one of {os.environ['WORLD_SIZE']} that "
                f"torchrun started: run `python "
                f"train.py -m ...`; "
                "hydra/launcher=slurm hydra.launcher.tasks_per_node=2 gives each of its cells two processes, "
                "torchrun a single cell "
                "(without -m)"
            )
        self.say(f"{len(job_overrides)} cells")
        grid = self._composer.all(job_overrides)
        skips = self._states(grid)
        check = Checker()
        grid = [check(planned) if skip == "" else planned for planned, skip in zip(grid, skips, strict=True)]
        equal = self._equal_arms(grid, check) if "" in skips else []
        for note in (*said_once(grid), *equal):
            self.say(note)
        if self.dry_run:
            self._show(grid, skips)
        left: list[PlannedCell] = []
        failures: list[tuple[PlannedCell, str]] = []
        for number, (planned, skip) in enumerate(zip(grid, skips, strict=True), start=1):
            ready = planned if skip or self.dry_run else _planned(planned)
            if ready.error is not None:
                self.say(f"[{number}/{len(grid)}] {_distinct_overrides(planned, grid)}: refused")
                failures.append((planned, ready.error))
            elif skip and not self.dry_run:
                self.say(f"[{number}/{len(grid)}] {planned.folder.path}: {skip}")
            elif not skip:
                left.append(ready)
        if left and not self.dry_run:
            record_launch(self.sweep, self._argv())
            failures += [(left[place], reason) for place, reason in self.run(left).items()]
        if failures:
            self.say(f"\n{len(failures)} of {len(grid)} cells failed:")
            for planned, reason in failures:
                self.say(f"  {_distinct_overrides(planned, grid)}\n    {reason}")
            raise SystemExit(1)
        return [_returned(overrides) for overrides in job_overrides]

    def say(self, text: str) -> None:
        """Print a line at once."""
        self._console.print(text, markup=False)
        sys.stdout.flush()

    def arguments_of(self, planned: PlannedCell) -> list[str]:
        """The arguments of train.py that make one cell a run of its own."""
        assert planned.cell is not None
        return [
            Planned.of(planned.cell).argument,
            *config_options(self.config),
            *planned.overrides,
            *self._for_each_cell,
            # A sweep file that makes this a multirun must not make the cell one too.
            "hydra.mode=RUN",
        ]

    def _equal_arms(self, grid: Sequence[PlannedCell], check: Checker) -> list[str]:
        """Notes on arms that are one run, where that is allowed."""
        try:
            return [f"note: {note}" for note in refuse_equal_arms(grid, check)]
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error

    def _argv(self) -> list[str]:
        # As typed, the choice of cells and of a dry run left out.
        left_out = ("hydra.launcher.only=", "hydra.launcher.dry_run=")
        return [*program(), *(argument for argument in sys.argv[1:] if not argument.startswith(left_out))]

    def _states(self, grid: Sequence[PlannedCell]) -> list[str]:
        """Why a cell is not to be launched, one for each; empty for those that are."""
        try:
            active = {path: planned for path, planned in jobs(self.sweep.resolve()).items() if planned.active}
        except SchedulerError as error:
            raise SystemExit(
                f"error: {self.sweep} has cells that were submitted to SLURM, and what became of them cannot "
                f"be asked: {error}"
            ) from error
        seen: set[Path] = set()
        out = []
        for planned in grid:
            path = None if planned.cell is None else planned.folder.path
            queued = None if path is None else active.get(path.resolve())
            if path is None or planned.error is not None:
                skip = ""
            elif path in seen:
                skip = "the same cell again, skipped"
            elif self.only is not None and os.path.relpath(path, self.sweep) not in self.only:
                skip = "not asked for"
            elif planned.folder.finished():
                skip = f"{planned.folder.manifest()['state']} already, nothing to do"
            elif queued is not None:
                skip = f"job {queued.id} is {queued.state.lower()}, left alone"
            else:
                skip = ""
            seen |= {path} if path else set()
            out.append(skip)
        return out

    def _show(self, grid: Sequence[PlannedCell], skips: Sequence[str]) -> None:
        costs, known = Siblings(self.sweep), []
        unit = "GPU hours" if self.devices_a_cell else "hours"
        self.say("dry run, nothing is started")
        table = Table(box=None)
        for name in ("cell", "would", unit):
            table.add_column(name, overflow="fold")
        for planned, skip in zip(grid, skips, strict=True):
            seconds = None if skip or planned.cell is None or planned.error else costs.seconds(planned.cell)
            hours = None if seconds is None else seconds / 3600 * max(self.devices_a_cell, 1)
            known.append(hours)
            started = planned.cell is not None and any(planned.folder.checkpoints.glob("step_*"))
            action = (
                f"be refused: {planned.error}" if planned.error else skip or ("go on" if started else "start")
            )
            table.add_row(_distinct_overrides(planned, grid), action, "" if hours is None else f"{hours:.2f}")
        self._console.print(table)
        left = sum(not skip and planned.error is None for planned, skip in zip(grid, skips, strict=True))
        estimated = [hours for hours in known if hours is not None]
        estimate = (
            f"about {sum(estimated):.2f} {unit} for {len(estimated)} of them, by finished siblings"
            if estimated
            else "no finished sibling to estimate from"
        )
        self.say(f"{left} of {len(grid)} cells would run; {estimate}")


def _distinct_overrides(planned: PlannedCell, grid: Sequence[PlannedCell]) -> str:
    """What sets a cell's command line apart from the grid's others; all of it when nothing does."""
    shared = set.intersection(*(set(other.overrides) for other in grid))
    distinct = [override for override in planned.overrides if override not in shared]
    return " ".join(distinct or planned.overrides)


def _planned(planned: PlannedCell) -> PlannedCell:
    if planned.cell is None or planned.error is not None:
        return planned
    try:
        planned.folder.plan(planned.cell)
        write_settings(planned.cell, planned.folder)
    except OSError as error:
        return replace(
            planned,
            error=(
                f"out: cannot write to {planned.cell.folder} ({error}); set out= to a folder that can be "
                f"written to"
            ),
        )
    return planned


def _returned(overrides: Sequence[str]) -> JobReturn:
    out = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    out.return_value = None
    return out
