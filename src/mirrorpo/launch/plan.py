"""A grid's cells, composed and checked before the first one starts."""

import copy
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from mirrorpo.config.cell import Cell
from mirrorpo.config.compose import cell_of
from mirrorpo.config.identity import EVAL_SETS, digest
from mirrorpo.config.values import Config
from mirrorpo.launch.errors import composition_error
from mirrorpo.launch.same_inputs import SameInputs
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder, run_folders, seconds
from mirrorpo.run.forks import fork_map
from mirrorpo.run.manifest import MANIFEST, read_manifest
from mirrorpo.run.siblings import folder_to_go_on_from, shorter_run_note

if TYPE_CHECKING:
    # It imports torch.
    from mirrorpo.core.protocols import Dataset, Inert, Split
    from mirrorpo.train.build import Components

SEED = re.compile(r"seed=\d+")


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell of the grid, or the reason why it is none.

    Attributes:
        overrides: its command line.
        cell: what it composes to; None when it does not.
        error: why it cannot run.
        notes: arms of it that are configured and have no effect.
    """

    overrides: Sequence[str]
    cell: Cell | None
    error: str | None
    notes: Sequence[str] = ()

    @property
    def arm(self) -> tuple[str, ...]:
        """Its command line without the seed: what such jobs share is looked at once."""
        return tuple(word for word in self.overrides if not SEED.fullmatch(word))

    @property
    def folder(self) -> RunFolder:
        """Where the cell runs."""
        assert self.cell is not None
        return RunFolder(self.cell.folder)


class Composer:
    """Command lines to cells; of those that differ in nothing but the seed, one is composed by Hydra."""

    def __init__(self, context: HydraContext, config: DictConfig) -> None:
        self._context, self._config = context, config
        self._same_inputs = SameInputs()
        self._arms: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def all(self, grid: Sequence[Sequence[str]]) -> list[PlannedCell]:
        """The jobs of many command lines, an arm at a time in as many processes as there are cores."""
        arms: dict[tuple[str, ...], list[int]] = {}
        for place, overrides in enumerate(grid):
            arms.setdefault(PlannedCell(overrides, None, None).arm, []).append(place)
        lines = [[grid[place] for place in places] for places in arms.values()]
        # Forked, because Hydra's state cannot be sent; no other thread runs yet, torch is imported later.
        composed = dict(zip(arms, fork_map(self._arm_of, lines), strict=True))
        composed_cells = {
            place: planned
            for arm, places in arms.items()
            for place, planned in zip(places, composed[arm], strict=True)
        }
        return [composed_cells[place] for place in range(len(grid))]

    def _arm_of(self, lines: Sequence[Sequence[str]]) -> list[PlannedCell]:
        return [self(overrides) for overrides in lines]

    def __call__(self, overrides: Sequence[str]) -> PlannedCell:
        """The job of one command line; what does not compose, or holds another config's run, has its
        reason.
        """
        planned = PlannedCell(tuple(overrides), None, None)
        seeds = [word for word in overrides if SEED.fullmatch(word)]
        try:
            config, hydra = self._arm(planned.arm)
            config = copy.deepcopy(config)
            if seeds:
                config.seed = int(seeds[-1].removeprefix("seed="))
            cell = cell_of(
                config,
                dict(hydra.runtime.choices),
                overrides=list(hydra.overrides.task),
                searchpath=list(hydra.searchpath),
            )
            folder = RunFolder(cell.folder)
            folder.refuse_other_config(cell)
            return replace(planned, cell=cell, notes=self._same_inputs(cell, folder_to_go_on_from(cell)))
        except RunError as error:
            return replace(planned, error=str(error))
        except Exception as error:
            # Whatever Hydra raises for a bad override is this cell's reason; the others still run.
            reason = composition_error(error) or f"{type(error).__name__}: {error}".strip().replace("\n", " ")
            return replace(planned, error=reason)

    def _arm(self, arm: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        """Its config, and Hydra's own part of it."""
        if arm not in self._arms:
            config = self._context.config_loader.load_sweep_config(self._config, list(arm))
            hydra = config.hydra
            with open_dict(config):
                del config["hydra"]
            self._arms[arm] = config, hydra
        return self._arms[arm]


class Checker:
    """What can be refused, or remarked on, without loading a model; once for all seeds of an arm."""

    def __init__(self) -> None:
        self._arms: dict[tuple[str, ...], tuple[str | None, Sequence[str]]] = {}
        self._components: dict[tuple[str, ...], Components] = {}
        self._sizes: dict[str, int | ValueError] = {}

    def __call__(self, planned: PlannedCell) -> PlannedCell:
        """The job with its error or notes."""
        if planned.cell is None or planned.error is not None:
            return planned
        if planned.arm not in self._arms:
            self._arms[planned.arm] = self._checked(planned, planned.cell)
        error, notes = self._arms[planned.arm]
        if error is None and planned.cell.config["extend"]:
            error = self._not_extendable(planned, planned.cell)
        notes = (*planned.cell.notes, *notes, *shorter_run_note(planned.cell))
        return replace(planned, error=error, notes=[*planned.notes, *notes])

    def inert(self, planned: PlannedCell) -> "Sequence[Inert] | None":
        """Which settings of a cell have no effect; None where it cannot be built."""
        from mirrorpo.train.build import inert

        if planned.cell is None:
            return None
        try:
            return inert(self._built(planned, planned.cell))
        except ValueError:
            # The check says so of a cell that is to run.
            return None

    def _built(self, planned: PlannedCell, cell: Cell) -> "Components":
        # Imported here, so that a grid with nothing to do does not wait for torch.
        from mirrorpo.train.build import build_components

        if planned.arm not in self._components:
            self._components[planned.arm] = build_components(cell.config)
        return self._components[planned.arm]

    def _checked(self, planned: PlannedCell, cell: Cell) -> tuple[str | None, Sequence[str]]:
        from mirrorpo.train.build import notes
        from mirrorpo.train.questions import few_questions_note

        try:
            components = self._built(planned, cell)
            size = self._evaluation_size(components.dataset, cell.config, ("train",))
            lines = [*notes(components), *few_questions_note(cell.config, size)]
            for name, eval_set in components.eval_sets.items():
                node = cell.config[EVAL_SETS][name]
                size = self._evaluation_size(eval_set.dataset, node)
                lines += few_questions_note(node, size, f"{EVAL_SETS}.{name}.")
            return None, lines
        except ValueError as error:
            return f"{type(error).__name__}: {error}", ()

    def _not_extendable(self, planned: PlannedCell, cell: Cell) -> str | None:
        from mirrorpo.train.extension import extendable

        try:
            if not any(planned.folder.checkpoints.glob("step_*")):
                extendable(cell, self._built(planned, cell))
        except ValueError as error:
            return str(error)
        return None

    def _evaluation_size(self, dataset: "Dataset", config: Config, others: "Sequence[Split]" = ()) -> int:
        """How many questions the evaluation's split has; other splits are read too."""
        size: int | ValueError = 0
        # Read here, so that data that is missing costs no job; nodes without a network find it in the hub's
        # cache.
        for split in (*others, config["eval_split"]):
            key = digest({"dataset": config["dataset"], "split": split})
            if key not in self._sizes:
                try:
                    self._sizes[key] = len(dataset.load(split))
                except ValueError as error:
                    self._sizes[key] = error
            size = self._sizes[key]
            if isinstance(size, ValueError):
                raise size
        return size


class Siblings:
    """What finished cells of a sweep cost, to say what its others will."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep

    def seconds(self, cell: Cell) -> float | None:
        """Estimated seconds of a cell: the mean of the likest finished ones, a step at a time; None without
        any.
        """
        for axes in (
            ("algo", "divergence", "weighting", "model", "dataset"),
            ("weighting", "model", "dataset"),
            ("model", "dataset"),
        ):
            alike = [
                cost
                for choices, cost in self._finished
                if all(choices[axis] == cell.choices[axis] for axis in axes)
            ]
            if alike:
                return sum(alike) / len(alike) * cell.config["steps"]
        return None

    @cached_property
    def _finished(self) -> list[tuple[Mapping[str, str], float]]:
        out = []
        for path in run_folders(self._sweep):
            try:
                manifest = read_manifest(path / MANIFEST)
                spent = sum(seconds(row) for _, row in RunFolder(path).timings.numbered() if row is not None)
            except RunError as error:
                print(f"note: {error}", file=sys.stderr)
                continue
            if manifest.get("ended") and not manifest.get("error") and manifest["config"]["steps"] > 0:
                out.append((manifest["choices"], spent / manifest["config"]["steps"]))
        return out


def said_once(jobs: Sequence[PlannedCell]) -> list[str]:
    """The notes of all cells, each with the number of cells that it is about."""
    counts = Counter(note for planned in jobs for note in planned.notes)
    return [f"note, {count} of {len(jobs)} cells: {note}" for note, count in counts.items()]
