"""`hydra/sweeper=es`: meta-learns a mirror map; every candidate is a run, and a job of whichever launcher."""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mirrorpo.config.values import Config
from mirrorpo.launch.errors import CellsFailed, LaunchError
from mirrorpo.launch.fitness import fitness_of
from mirrorpo.launch.plan import Composer, PlannedCell
from mirrorpo.run.disk import write_atomic

if TYPE_CHECKING:
    # It imports torch.
    from mirrorpo.launch.evolution import Generation, Try

# What the search chooses itself.
OWN = re.compile(r"\+*(divergence|divergence\.potential\..*|eval_split)=.*|hydra[./].*")
CANDIDATE = "divergence=neural_mirror_candidate"
PARAMETERS = "divergence.potential.parameters"


class EvolutionSweeper(Sweeper):
    """Generations of candidates, each trained like any cell and judged on questions that training never sees.

    Files in `<sweep>/es/`: `generation_*.json` (what its candidates are made from), `result_*.json` (their
    fitness), `map.json` (the learned numbers so far, for `divergence=neural_mirror_learned`), `moved.png`. A
    search that was killed and is launched again goes on from them: its finished candidates are not run again.

    Attributes:
        generations: how many.
        fitness: key of metrics.jsonl, at the last evaluation.
        shared_seed: one run seed for all generations; false: the run's seed plus the generation's number. In
            either case all candidates of a generation share it (common random numbers).
        start: settings of `RandomParameters`, where the search begins.
        search: settings of `Evolution`.
    """

    def __init__(
        self,
        *,
        generations: int,
        fitness: str,
        shared_seed: bool,
        start: Config,
        search: Config,
        **unused: object,
    ) -> None:
        if unused.get("params"):
            raise LaunchError(
                f"hydra.sweeper.params={unused['params']}: a search has no grid; give one value to "
                f"each setting"
            )
        if generations < 1:
            raise LaunchError(f"hydra.sweeper.generations={generations}: give at least 1")
        self.generations, self.fitness, self.shared_seed = generations, fitness, shared_seed
        self.start, self.search = dict(start), dict(search)

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
        from mirrorpo.divergence.neural_mirror import RandomParameters
        from mirrorpo.launch.evolution import Evolution

        overrides = self._own(arguments)
        assert self.config is not None
        try:
            self.rules = Evolution(**self.search)
            generation = self.rules.start(RandomParameters(**self.start).values)
            if getattr(self.launcher, "dry_run", False):
                with tempfile.TemporaryDirectory() as nowhere:
                    self.folder = Path(nowhere)
                    self._launch(generation, overrides)
                print(f"this is the first of {self.generations} generations; the others are as large")
                return []
            self.folder = Path(self.config.hydra.sweep.dir) / "es"
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, self.folder.parent / "multirun.yaml")
            self._refuse_other_settings(overrides)
            for _ in range(self.generations):
                generation = self._generation(generation, overrides)
        except LaunchError:
            raise
        except ValueError as error:
            raise LaunchError(str(error)) from error
        print(
            f"learned map: {self.folder / 'map.json'}; python train.py divergence=neural_mirror_learned "
            f"{PARAMETERS}.path={self.folder / 'map.json'}"
        )
        return []

    def _generation(self, generation: "Generation", overrides: Sequence[str]) -> "Generation":
        from mirrorpo.launch.evolution import Generation, Tried, Try
        from mirrorpo.tools.plot_mirror_maps import draw_search

        number = generation.number
        result_file = self.folder / f"result_{number:03d}.json"
        if not result_file.exists():
            fitness = self._evaluate(generation, overrides)
            after = self.rules.tell(generation, fitness)
            rows = [asdict(candidate) | {"fitness": value} for candidate, value in fitness.items()]
            write_atomic(result_file, json.dumps({"candidates": rows, "after": asdict(after)}) + "\n")
        result = json.loads(result_file.read_text())
        kept = tuple(Tried(Try(**entry["candidate"]), entry["fitness"]) for entry in result["after"]["kept"])
        after = Generation(**{**result["after"], "kept": kept})
        write_atomic(self.folder / "map.json", json.dumps(self.rules.numbers(after.mean).tolist()) + "\n")
        known = [row["fitness"] for row in result["candidates"] if row["fitness"] is not None]
        print(
            f"generation {number + 1}/{self.generations}: fitness mean "
            f"{sum(known) / max(len(known), 1):.4f}, best {max(known):.4f}, "
            f"{len(known)} of {len(result['candidates'])} candidates, {after.discarded} discarded so far, "
            f"sigma {generation.sigma:.4g}",
            flush=True,
        )
        results = [
            json.loads((self.folder / f"result_{index:03d}.json").read_text()) for index in range(number + 1)
        ]
        start = json.loads((self.folder / "generation_000.json").read_text())["mean"]
        numbers = [
            self.rules.numbers(mean) for mean in (start, *(entry["after"]["mean"] for entry in results))
        ]
        draw_search(
            numbers,
            [[row["fitness"] for row in entry["candidates"]] for entry in results],
            self.folder / "moved.png",
        )
        return after

    def _evaluate(self, generation: "Generation", overrides: Sequence[str]) -> "dict[Try, float | None]":
        compose = Composer(self._context, self.config)  # type: ignore[arg-type]
        grid = self._launch(generation, overrides)
        return {
            candidate: self._fitness_of(compose(overrides_of))
            for candidate, overrides_of in zip(self.rules.ask(generation), grid, strict=True)
        }

    def _launch(self, generation: "Generation", overrides: Sequence[str]) -> list[list[str]]:
        """Run a generation's candidates; their command lines."""
        file = self.folder / f"generation_{generation.number:03d}.json"
        write_atomic(
            file,
            json.dumps(
                {
                    "mean": list(generation.mean),
                    "sigma": generation.sigma,
                    "positivity": self.rules.positivity,
                }
            )
            + "\n",
        )
        assert self.config is not None and self.launcher is not None
        candidates = self.rules.ask(generation)
        seed = [] if self.shared_seed else [f"seed={self.config.seed + generation.number}"]
        grid = [
            [
                *overrides,
                *seed,
                CANDIDATE,
                f"{PARAMETERS}.generation={file}",
                f"{PARAMETERS}.noise={candidate.noise}",
                f"{PARAMETERS}.sign={candidate.sign}",
            ]
            for candidate in candidates
        ]
        try:
            self.launcher.launch(grid, initial_job_idx=generation.number * len(grid))
        except CellsFailed as failed:
            # A candidate that failed is counted below; one that could not be started runs later.
            if failed.unstarted:
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
            raise LaunchError(
                f"eval_split={split}: a map chosen by the test questions could not "
                "be tested on them; use validation"
            )
        if self.config.eval_questions == 0:
            raise LaunchError(
                "eval_questions=0: a candidate's fitness is its accuracy on validation questions; set "
                "how many"
            )
        return [word for word in arguments if not OWN.fullmatch(word)]

    def _refuse_other_settings(self, overrides: Sequence[str]) -> None:
        """Check that the folder's search is this one."""
        settings = {
            "overrides": sorted(overrides),
            "fitness": self.fitness,
            "shared_seed": self.shared_seed,
            "start": self.start,
            **self.search,
        }
        file = self.folder / "settings.json"
        if not file.exists():
            write_atomic(file, json.dumps(settings, indent=2) + "\n")
        stored = json.loads(file.read_text())
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
