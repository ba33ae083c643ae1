"""`hydra/sweeper=es` and `cma`: meta-learn a mirror map.

Every candidate is a run, and a job of whichever launcher.
"""

import json
import re
import shlex
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.override_text import quoted
from mirrorpo.config.values import Config
from mirrorpo.launch.errors import CellsFailed, LaunchError
from mirrorpo.launch.fitness import NoFitness, fitness_of, quantity_of
from mirrorpo.launch.plan import Composer, PlannedCell
from mirrorpo.run.disk import write_atomic
from mirrorpo.run.errors import unwritable

if TYPE_CHECKING:
    # They import torch.
    from torch import Tensor

    from mirrorpo.launch.evolution import Generation, Try

# What the search chooses itself.
OWN = re.compile(r"\+*(divergence|divergence\.potential\..*)=.*|hydra[./].*")
CHOSEN_BY_TEST = "a map chosen by the test questions could not be tested on them; use validation"
CANDIDATE = "divergence=neural_mirror_candidate"
PARAMETERS = "divergence.potential.parameters"


class SearchRules(Protocol):
    """What to try, and what to make of how it went; `Evolution` and `CmaSearch`."""

    @property
    def positivity(self) -> str:
        """How theta becomes non-negative numbers."""
        ...

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        ...

    def start(self, numbers: "Tensor") -> "Generation":
        """A search around these numbers."""
        ...

    def ask(self, generation: "Generation") -> "list[Try]":
        """The candidates of a generation."""
        ...

    def tell(self, generation: "Generation", fitness: "Mapping[Try, float | None]") -> "Generation":
        """The next generation."""
        ...

    def replay(self, generation: "Generation", fitness: "Mapping[Try, float | None]") -> None:
        """Take in a generation whose successor is known."""
        ...

    def points(self, generation: "Generation") -> "Mapping[str, tuple[Sequence[float], float]]":
        """The thetas and sigmas that candidates are made from, by the name of their file."""
        ...

    def point_of(self, generation: "Generation", candidate: "Try") -> str:
        """The name of a candidate's file."""
        ...

    def numbers(self, mean: Sequence[float]) -> "Tensor":
        """The mirror map's numbers at a theta."""
        ...


class MapSweeper(Sweeper):
    """Generations of candidates, each trained like any cell, by the rules of a search.

    Files in `<sweep>/es/`: `generation_*.json` (what its candidates are made from), `result_*.json` (their
    fitness), the map at the start, now, and of the generation with the best mean fitness (`map_start.json`,
    `map.json`, `map_best.json`, for `divergence=neural_mirror_learned`), `moved.png`. A search that was
    killed and is launched again goes on from them: its finished candidates are not run again.

    Attributes:
        generations: how many.
        fitness: key of metrics.jsonl, its value at the end or with `area:` its mean over the run.
        shared_seed: one run seed for all generations; false: the run's seed plus the generation's number. In
            either case all candidates of a generation share it (common random numbers).
        shuffled: the null search: what a candidate counts for is the fitness of another one.
        start: settings of `RandomParameters`, where the search begins.
        scale: settings of `MapScale`, the one strength of all candidates; None leaves maps as they are drawn.
        search: settings of the rules.
    """

    def __init__(
        self,
        *,
        generations: int,
        fitness: str,
        shared_seed: bool,
        shuffled: bool,
        start: Config,
        scale: Config | None,
        search: Config,
        **unused: object,
    ) -> None:
        if unused.get("params"):
            raise LaunchError(
                f"hydra.sweeper.params={unused['params']}: a search has no grid; give one value to "
                f"each setting"
            )
        if unused.get("along"):
            raise LaunchError(f"hydra.sweeper.along={unused['along']}: a search has no grid; set it plainly")
        if type(generations) is not int or generations < 1:
            raise LaunchError(f"hydra.sweeper.generations={generations}: give at least 1")
        if not isinstance(fitness, str):
            raise LaunchError(f"hydra.sweeper.fitness={fitness}: name a quantity, as area:reward/mean")
        self.generations, self.fitness, self.shared_seed = generations, fitness, shared_seed
        self.shuffled = shuffled
        self.start, self.search = dict(start), dict(search)
        self.scale_settings = None if scale is None else plain(scale)

    @staticmethod
    @abstractmethod
    def rules_of(search: Config) -> SearchRules:
        """The rules of some settings.

        Raises:
            ValueError: naming the setting.
        """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.config, self._context = config, hydra_context
        with open_dict(config):
            # A generation needs its predecessor's results.
            if "wait" in config.hydra.launcher:
                config.hydra.launcher.wait = True
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[object]:
        """Run the search, or go on with it.

        Raises:
            LaunchError: for settings that it cannot use, or a generation without a whole pair.
        """
        overrides = self._own(arguments)
        try:
            generation = self._begin()
            if getattr(self.launcher, "dry_run", False):
                with tempfile.TemporaryDirectory() as nowhere:
                    self.folder = Path(nowhere)
                    self._launch(generation, overrides)
                print(f"this is the first of {self.generations} generations; the others are as large")
                return []
            self._make_folder()
            self._refuse_other_settings(overrides)
            for _ in range(self.generations):
                generation = self._generation(generation, overrides)
        except LaunchError:
            raise
        except ValueError as error:
            raise LaunchError(str(error)) from error
        print(
            f"learned map: {self.folder / 'map.json'}; python train.py divergence=neural_mirror_learned "
            f"{shlex.quote(f'{PARAMETERS}.path={self.folder}/map.json')}\n"
            f"around which fitness was highest in the mean, {generation.best:.4f}: "
            f"{self.folder / 'map_best.json'}; the start: {self.folder / 'map_start.json'}"
        )
        return []

    def _begin(self) -> "Generation":
        """Read the settings; the search before its first generation."""
        from mirrorpo.divergence.map_scale import MapScale
        from mirrorpo.divergence.neural_mirror import RandomParameters

        with settings_named({"search": self.search, "start": self.start, "scale": self.scale_settings}):
            self.rules = self.rules_of(self.search)
            self.scale: MapScale | None = None
            if self.scale_settings is not None:
                self.scale = MapScale(**self.scale_settings)  # type: ignore[arg-type]
            return self.rules.start(RandomParameters(**self.start).values)

    def _make_folder(self) -> None:
        assert self.config is not None
        self.folder = Path(self.config.hydra.sweep.dir) / "es"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, self.folder.parent / "multirun.yaml")
        except OSError as error:
            raise LaunchError(unwritable(self.folder.parent, error)) from error

    def _generation(self, generation: "Generation", overrides: Sequence[str]) -> "Generation":
        from mirrorpo.launch.evolution import Generation, Tried

        result_file = self.folder / f"result_{generation.number:03d}.json"
        if result_file.exists():
            rows = json.loads(result_file.read_text())["candidates"]
            self.rules.replay(generation, {_candidate(row): row["counted"] for row in rows})
        else:
            fitness = self._evaluate(generation, overrides)
            counted = self._counted(generation, fitness)
            after = self.rules.tell(generation, counted)
            rows = [
                asdict(candidate) | {"fitness": fitness[candidate], "counted": counted[candidate]}
                for candidate in fitness
            ]
            write_atomic(result_file, json.dumps({"candidates": rows, "after": asdict(after)}) + "\n")
        stored = json.loads(result_file.read_text())["after"]
        kept = tuple(Tried(_candidate(entry["candidate"]), entry["fitness"]) for entry in stored["kept"])
        after = Generation(**{**stored, "kept": kept})
        self._report(generation, after, rows)
        return after

    def _report(
        self, generation: "Generation", after: "Generation", rows: Sequence[Mapping[str, float | None]]
    ) -> None:
        """Print how a generation did, and write the maps and the picture as of now."""
        from mirrorpo.tools.plot_mirror_maps import draw_search

        known = [row["fitness"] for row in rows if row["fitness"] is not None]
        print(
            f"generation {after.number}/{self.generations}: fitness mean {sum(known) / len(known):.4f}, "
            f"best {max(known):.4f}, {len(known)} of {len(rows)} candidates, {after.discarded} discarded so "
            f"far, sigma {generation.sigma:.4g}" + (", shuffled" if self.shuffled else ""),
            flush=True,
        )
        results = [
            json.loads((self.folder / f"result_{index:03d}.json").read_text())
            for index in range(after.number)
        ]
        start = json.loads((self.folder / "generation_000.json").read_text())["mean"]
        for name, mean in (("_start", start), ("", after.mean), ("_best", after.best_mean)):
            write_atomic(self.folder / f"map{name}.json", json.dumps(self._map(mean).tolist()) + "\n")
        draw_search(
            [self._map(mean) for mean in (start, *(entry["after"]["mean"] for entry in results))],
            [[row["fitness"] for row in entry["candidates"]] for entry in results],
            self.folder / "moved.png",
        )

    def _map(self, mean: Sequence[float]) -> "Tensor":
        numbers = self.rules.numbers(mean)
        return numbers if self.scale is None else self.scale.scaled(numbers)

    def _counted(
        self, generation: "Generation", fitness: "Mapping[Try, float | None]"
    ) -> "dict[Try, float | None]":
        """What each candidate counts for: its fitness, or in a null search that of any that has one."""
        from torch import randperm

        from mirrorpo.core.seeds import generator

        known = [candidate for candidate, value in fitness.items() if value is not None]
        if not self.shuffled:
            return dict(fitness)
        stream = generator(self.rules.seed, "es", "shuffled", generation.number)
        order = randperm(len(known), generator=stream).tolist()
        return {**fitness, **{known[k]: fitness[known[other]] for k, other in enumerate(order)}}

    def _evaluate(self, generation: "Generation", overrides: Sequence[str]) -> "dict[Try, float | None]":
        grid = self._launch(generation, overrides)
        compose = Composer(self._context, self.config)  # type: ignore[arg-type]
        fitness: dict[Try, float | None] = {}
        lacking: list[NoFitness] = []
        for candidate, overrides_of in zip(self.rules.ask(generation), grid, strict=True):
            try:
                fitness[candidate] = self._fitness_of(compose(overrides_of))
            except NoFitness as error:
                fitness[candidate] = None
                lacking.append(error)
        if lacking and all(value is None for value in fitness.values()):
            raise lacking[0]
        for error in lacking:
            print(f"note: a candidate does not count: {error}", flush=True)
        return fitness

    def _launch(self, generation: "Generation", overrides: Sequence[str]) -> list[list[str]]:
        """Run a generation's candidates; their command lines."""
        shared = {"positivity": self.rules.positivity, "scale": self.scale_settings}
        for name, (mean, sigma) in self.rules.points(generation).items():
            content = {"mean": list(mean), "sigma": sigma, **shared}
            write_atomic(self.folder / name, json.dumps(content) + "\n")
        assert self.config is not None and self.launcher is not None
        candidates = self.rules.ask(generation)
        seed = [] if self.shared_seed else [f"seed={self.config.seed + generation.number}"]
        grid = [
            [
                *overrides,
                *seed,
                CANDIDATE,
                f"{PARAMETERS}.generation={quoted(f'{self.folder}/{file}')}",
                f"{PARAMETERS}.noise={candidate.noise}",
                f"{PARAMETERS}.sign={candidate.sign}",
            ]
            for candidate in candidates
            for file in [self.rules.point_of(generation, candidate)]
        ]
        self._refuse_test_questions(grid[0])
        try:
            self.launcher.launch(grid, initial_job_idx=generation.number * len(grid))
        except CellsFailed as failed:
            # A candidate that failed is counted below; one that could not be started runs later.
            if failed.unstarted or getattr(self.launcher, "dry_run", False):
                raise
        return grid

    def _fitness_of(self, planned: PlannedCell) -> float | None:
        if planned.cell is None:
            return None
        if planned.folder.held():
            raise LaunchError(
                f"another process runs {planned.folder.path}, a candidate of this search: give the same "
                "command when that has ended"
            )
        return fitness_of(planned.folder, self.fitness, "hydra.sweeper.fitness")

    def _own(self, arguments: Sequence[str]) -> list[str]:
        assert self.config is not None
        parsed = OverridesParser.create(config_loader=self._context.config_loader).parse_overrides(
            list(arguments)
        )
        grid = [str(override.input_line) for override in parsed if override.is_sweep_override()]
        if grid:
            raise LaunchError(f"{', '.join(grid)}: a search has no grid; give one value to each setting")
        if (split := self.config.get("eval_split")) != "validation":
            raise LaunchError(f"eval_split={split}: {CHOSEN_BY_TEST}")
        if self.config.eval_questions == 0 and "eval/" in self.fitness:
            raise LaunchError(
                f"eval_questions=0: a candidate's fitness is its {self.fitness} on validation questions; set "
                "how many"
            )
        return [word for word in arguments if not OWN.fullmatch(word)]

    def _refuse_test_questions(self, candidate: Sequence[str]) -> None:
        """Check that candidates are judged by validation questions, those of `eval_datasets` too."""
        cell = Composer(self._context, self.config)(candidate).cell  # type: ignore[arg-type]
        if cell is None:
            # The launcher says why.
            return
        _, _, rest = quantity_of(self.fitness).partition("eval/")
        name = rest.partition("/")[0]
        sets = cell.config.get(EVAL_SETS, {})
        split = sets.get(name, cell.config)["eval_split"]
        if split != "validation":
            setting = f"eval_datasets: {name} has eval_split" if name in sets else "eval_split"
            raise LaunchError(f"{setting}={split}: {CHOSEN_BY_TEST}")

    def _refuse_other_settings(self, overrides: Sequence[str]) -> None:
        """Check that the folder's search is this one."""
        settings = {
            "overrides": sorted(overrides),
            "fitness": self.fitness,
            "shared_seed": self.shared_seed,
            "shuffled": self.shuffled,
            "start": self.start,
            "scale": self.scale_settings,
            **self.search,
        }
        file = self.folder / "settings.json"
        if not file.exists():
            write_atomic(file, json.dumps(settings, indent=2) + "\n")
        stored = json.loads(file.read_text())
        if "scale" not in stored:
            raise ValueError(
                f"{self.folder} holds a search by the rule of before 0.2.0, which is gone: it could move a "
                "map by 16 times its norm where all fitnesses are equal. Its map.json can still be read; "
                "search under another name="
            )
        changed = [
            f"{key}: was {stored.get(key)!r}, is {settings.get(key)!r}"
            for key in sorted(stored.keys() | settings.keys())
            if stored.get(key) != settings.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds another search ({'; '.join(changed)}). Undo the change, or search "
                f"under another name="
            )


class EvolutionSweeper(MapSweeper):
    """`hydra/sweeper=es`: evolution strategies; `Evolution` has the rules."""

    @staticmethod
    def rules_of(search: Config) -> SearchRules:
        """The rules of some settings."""
        from mirrorpo.launch.evolution import Evolution

        return Evolution(**search)  # type: ignore[arg-type]


class CmaSweeper(MapSweeper):
    """`hydra/sweeper=cma`: covariance matrix adaptation; `CmaSearch` has the rules."""

    @staticmethod
    def rules_of(search: Config) -> SearchRules:
        """The rules of some settings."""
        from mirrorpo.launch.cma_search import CmaSearch

        return CmaSearch(**search)  # type: ignore[arg-type]


@contextmanager
def settings_named(settings: Mapping[str, object]) -> Iterator[None]:
    """Where a search's settings are read: one that is null, no number or not there is an error in a line.

    Args:
        settings: of the sweeper, by name.

    Raises:
        LaunchError: naming them.
    """
    try:
        yield
    except TypeError as error:
        values = ", ".join(f"hydra.sweeper.{name}={value}" for name, value in settings.items())
        raise LaunchError(
            f"{values}: {error}; give each setting of the sweeper's file a value, and no other: "
            "'~hydra.sweeper.search.NAME' takes one out"
        ) from error


def plain(config: Config) -> dict[str, object]:
    """Settings as what JSON has."""
    return cast("dict[str, object]", OmegaConf.to_container(OmegaConf.create(dict(config))))


def _candidate(row: Mapping[str, int]) -> "Try":
    from mirrorpo.launch.evolution import Try

    return Try(row["noise"], row["sign"])
