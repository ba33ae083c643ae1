"""What every launcher of cells does around running them: compose, check, skip what is done, name what
failed.
"""

import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from mirrorpo.launch.errors import CellsFailed, LaunchError
from mirrorpo.launch.fitness import NoFitness, fitness_of
from mirrorpo.launch.launches import entered, record_launch
from mirrorpo.launch.plan import Checker, Composer, PlannedCell, Siblings, said_once
from mirrorpo.launch.planned import Planned
from mirrorpo.launch.program import program
from mirrorpo.launch.recipe import recipe_of
from mirrorpo.launch.registration import registration
from mirrorpo.launch.scheduler import LAUNCH_PATIENCE_S, SchedulerError, jobs
from mirrorpo.launch.selection import seed_error
from mirrorpo.launch.sweep_lock import sweep_lock
from mirrorpo.run.errors import RunError, unwritable
from mirrorpo.run.settings_file import write_settings

LEFT_ALONE = "left alone"


class CellLauncher(Launcher):
    """Composes and checks the whole grid, then runs what is left of it.

    A cell that fails does not stop the others. At the end every failure is printed with its
    reason, and the exit status says that there was one.

    It launches this package's cells and nothing else: another application's task function is never called,
    and its config is refused, cell by cell. So of the tests that Hydra has for launchers, those that look at
    what a job of another application returned cannot pass: `tests/launch/test_hydra_suite.py` names them.

    Attributes:
        only: cells to launch, as `mirrorpo.status` names them, or `@FILE` that has one a line; None: all.
        dry_run: print what would be done and do nothing.
        fitness: key of metrics.jsonl whose last value each cell returns to the sweeper; None: no value.
        unstarted: whether cells could not be started that the same command starts later.
    """

    devices_a_cell = 0
    patience_s = LAUNCH_PATIENCE_S

    def __init__(self, *, only: Sequence[str] | str | None, dry_run: bool, fitness: str | None) -> None:
        self.only, self.dry_run, self.fitness = _chosen(only), dry_run, fitness
        self.unstarted = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.config = config
        # Cells are composed here as they are in their own processes.
        os.environ.update(environment_of(config))
        self.sweep = Path(config.hydra.sweep.dir)
        try:
            self._for_each_cell = for_each_cell(config)
        except ValueError as error:
            raise LaunchError(str(error)) from error
        self._registered = registration(config)
        self._composer = Composer(hydra_context, config)
        self._console = Console(highlight=False, soft_wrap=True)

    def submit(self, left: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Hand cells to a scheduler, while no other launcher of the sweep does.

        Returns:
            The reasons of those that it does not take, by their place.
        """
        return {}

    @abstractmethod
    def run(self, left: Sequence[PlannedCell], elsewhere: Sequence[PlannedCell]) -> Mapping[int, str]:
        """Run cells, or wait for those that a scheduler runs.

        Args:
            left: the cells.
            elsewhere: cells of the same launch that were running or queued already.

        Returns:
            The reasons of those that failed, by their place among both, one after the other.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells.

        Returns:
            One for each command line. With `fitness` that is its value, or the reason why there is none.

        Raises:
            LaunchError: if nothing can be launched.
            CellsFailed: after all cells had their turn, if one failed and no fitness is wanted.
        """
        if (world_size := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise LaunchError(
                f"a sweep is launched by one process, this is one of {world_size} that torchrun started: "
                "run `python train.py -m ...`; hydra/launcher=slurm hydra.launcher.tasks_per_node=2 gives "
                "each of its cells two processes, torchrun a single cell (without -m)"
            )
        self.say(f"{len(job_overrides)} cells")
        self.unstarted = False
        grid = [self._on_other_seeds(planned) for planned in self._composer.all(job_overrides)]
        failures: dict[int, str] = {}
        with self._entered():
            with self._locked():
                grid, skips = self._checked(grid)
                left = self._left(grid, skips, failures)
                cells = [grid[place] for place in left]
                if left and not self.dry_run:
                    record_launch(
                        self.sweep,
                        self._argv(),
                        self._names(grid),
                        self._registered,
                        recipe=recipe_of(self.config),
                    )
                    failures |= {left[place]: reason for place, reason in self.submit(cells).items()}
            started = [place for place in left if place not in failures]
            elsewhere = [place for place, skip in enumerate(skips) if skip.endswith(LEFT_ALONE)]
            places = [*started, *elsewhere]
            if places and not self.dry_run:
                reasons = self.run([grid[place] for place in started], [grid[place] for place in elsewhere])
                failures |= {places[place]: reason for place, reason in reasons.items()}
        return self._returned(job_overrides, grid, failures)

    def _on_other_seeds(self, planned: PlannedCell) -> PlannedCell:
        """The cell, refused where its settings were chosen on its seed."""
        selection = self._registered.selection
        if selection is None or planned.cell is None or planned.error is not None:
            return planned
        return replace(planned, error=seed_error(planned.cell.config["seed"], selection))

    def _checked(self, grid: Sequence[PlannedCell]) -> tuple[list[PlannedCell], list[str]]:
        """The cells with their errors and notes, and why one is not to be launched."""
        skips = self._states(grid)
        check = Checker()
        checked = [check(cell) if skip == "" else cell for cell, skip in zip(grid, skips, strict=True)]
        equal = refuse_equal_arms(grid, check) if "" in skips else []
        for note in (*said_once(checked), *(f"note: {note}" for note in equal)):
            self.say(note)
        if self.dry_run:
            self._show(checked, skips)
        return checked, skips

    def _left(self, grid: list[PlannedCell], skips: Sequence[str], failures: dict[int, str]) -> list[int]:
        """The places of the cells to be launched, which are entered as planned; refused ones are failures."""
        left: list[int] = []
        for place, (planned, skip) in enumerate(zip(grid, skips, strict=True)):
            ready = planned if skip or self.dry_run else _planned(planned)
            if ready.error is not None:
                self.say(f"[{place + 1}/{len(grid)}] {_distinct_overrides(planned, grid)}: refused")
                failures[place] = ready.error
            elif skip and not self.dry_run:
                self.say(f"[{place + 1}/{len(grid)}] {planned.folder.path}: {skip}")
            elif not skip:
                left.append(place)
        return left

    def _returned(
        self,
        job_overrides: Sequence[Sequence[str]],
        grid: Sequence[PlannedCell],
        failures: Mapping[int, str],
    ) -> list[JobReturn]:
        names = {place: _distinct_overrides(grid[place], grid) for place in sorted(failures)}
        if failures:
            self.say(f"\n{len(failures)} of {len(grid)} cells failed:")
            for place, name in names.items():
                self.say(f"  {name}\n    {failures[place]}")
        if failures and (self.fitness is None or self.unstarted):
            reasons = {name: failures[place] for place, name in names.items()}
            raise CellsFailed(reasons, len(grid), unstarted=self.unstarted)
        return [
            self._job_return(overrides, planned, failures.get(place))
            for place, (overrides, planned) in enumerate(zip(job_overrides, grid, strict=True))
        ]

    def _job_return(self, overrides: Sequence[str], planned: PlannedCell, failure: str | None) -> JobReturn:
        out = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        if planned.cell is not None:
            out.working_dir = str(planned.folder.path)
        if self.fitness is None or self.dry_run:
            return out
        value = None
        try:
            value = None if failure else fitness_of(planned.folder, self.fitness, "hydra.launcher.fitness")
        except NoFitness as error:
            failure = str(error)
        out.return_value = value
        if value is None:
            # Hydra raises it when a sweeper reads the value.
            reason = failure or f"{planned.folder.path} is not done, so it has no {self.fitness} yet"
            out.status, out.return_value = JobStatus.FAILED, LaunchError(reason)
        return out

    @contextmanager
    def _entered(self) -> Iterator[None]:
        if self.dry_run:
            yield
            return
        with entered(self.sweep):
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.dry_run:
            yield
            return
        with sweep_lock(self.sweep, self.say):
            yield

    def _names(self, grid: Sequence[PlannedCell]) -> list[str]:
        """Run folders relative to the sweep's."""
        return [os.path.relpath(cell.folder.path, self.sweep) for cell in grid if cell.cell is not None]

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

    def _argv(self) -> list[str]:
        # As typed, the choice of cells and of a dry run left out.
        left_out = ("hydra.launcher.only=", "hydra.launcher.dry_run=")
        return [*program(), *(argument for argument in sys.argv[1:] if not argument.startswith(left_out))]

    def _states(self, grid: Sequence[PlannedCell]) -> list[str]:
        """Why a cell is not to be launched, one for each; empty for those that are."""
        try:
            known = jobs(self.sweep.resolve(), patience_s=self.patience_s)
        except SchedulerError as error:
            raise LaunchError(
                f"{self.sweep} has cells that were submitted to SLURM, and what became of them cannot be "
                f"asked: {error}"
            ) from error
        active = {path: job for path, job in known.items() if job.active}
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
            elif planned.folder.finished(verify=True):
                skip = f"{planned.folder.manifest()['state']} already, nothing to do"
            elif queued is not None:
                skip = f"job {queued.id} is {queued.state.lower()}, {LEFT_ALONE}"
            elif planned.folder.held():
                skip = f"another process runs it, {LEFT_ALONE}"
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
    except RunError as error:
        return replace(planned, error=str(error))
    except OSError as error:
        return replace(planned, error=unwritable(planned.cell.folder, error))
    return planned


def _chosen(only: Sequence[str] | str | None) -> frozenset[str] | None:
    if isinstance(only, str):
        if not only.startswith("@"):
            raise LaunchError(f"hydra.launcher.only={only}: give a list of cells, or @FILE with one a line")
        try:
            only = Path(only.removeprefix("@")).read_text().splitlines()
        except OSError as error:
            raise LaunchError(f"hydra.launcher.only={only}: {error}") from error
    return None if only is None else frozenset(only)
