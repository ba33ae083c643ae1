"""What a search for a mirror map will find in a world of one decision, before a candidate is trained.

    python -m mirrorpo.launch.search_forecast sweep=exploit_es
    python -m mirrorpo.launch.search_forecast sweep=exploit_es --noise 0.01 --seeds 42,1,2

The search that the settings name, with each candidate's fitness from the closed form of `dataset=exploit` in
place of a run: the gold reward at which a policy ends under its exact Bregman divergence. --noise is the
standard deviation of what is added to a fitness, as runs differ; --seeds draw the search's candidates anew.
The rows are the gold reward under the mean map after each generation, of the search and of its null search,
whose candidates count for each other's fitness; below them stand the pure shapes of the search's scale.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor

from mirrorpo.config.paths import command, conf
from mirrorpo.config.schema import register
from mirrorpo.core.protocols import Config
from mirrorpo.core.seeds import generator
from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.candidate import theta_of
from mirrorpo.divergence.flow import bregman_ending
from mirrorpo.divergence.map_scale import MapScale
from mirrorpo.divergence.neural_mirror import (
    COUNT,
    KINDS,
    OF_A_KIND,
    UNITS,
    GivenParameters,
    NeuralMirror,
    RandomParameters,
)
from mirrorpo.launch.evolution import Try
from mirrorpo.launch.evolution_sweeper import MapSweeper, SearchRules, settings_named
from mirrorpo.tools.cells import composed, or_exit
from mirrorpo.tools.fixed_points import World, reward_scale, world_of
from mirrorpo.train.build import build_components

SEARCH = "hydra/sweeper=es"


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecaster:
    """Gold rewards of mirror maps in a world.

    Attributes:
        world: the decisions.
        beta: of the penalty, beside unscaled rewards.
        scale: the strength of all maps; None leaves them as they are.
    """

    world: World
    beta: float
    scale: MapScale | None

    def map_of(self, numbers: Tensor) -> Tensor:
        """The numbers at the search's scale."""
        return numbers if self.scale is None else self.scale.scaled(numbers)

    def gold(self, numbers: Tensor) -> float:
        """The gold reward at which a policy ends under a map."""
        mirror = NeuralMirror(parameters=GivenParameters(self.map_of(numbers)))
        policy = bregman_ending(mirror.df, self.beta, self.world.proxy, self.world.start)
        return float((policy * self.world.gold).sum(-1).mean())

    def search(
        self, rules: SearchRules, start: Tensor, generations: int, *, deviation: float, shuffled: bool
    ) -> list[float]:
        """The gold reward of the mean map, at the start and after each generation.

        Args:
            rules: of the search.
            start: its map.
            generations: how many.
            deviation: of what is added to a fitness.
            shuffled: whether candidates count for each other's fitness.
        """
        generation, out = rules.start(start), [self.gold(start)]
        for number in range(generations):
            candidates = rules.ask(generation)
            points = rules.points(generation)
            thetas = [
                _theta(candidate, *points[rules.point_of(generation, candidate)]) for candidate in candidates
            ]
            fitness = torch.tensor([self.gold(rules.numbers(theta.tolist())) for theta in thetas])
            stream = generator(rules.seed, "es", "forecast", number)
            fitness = fitness + deviation * torch.randn(len(fitness), generator=stream)
            if shuffled:
                fitness = fitness[torch.randperm(len(fitness), generator=stream)]
            generation = rules.tell(generation, dict(zip(candidates, fitness.tolist(), strict=True)))
            out.append(self.gold(rules.numbers(generation.mean)))
        return out


def _theta(candidate: Try, mean: Sequence[float], sigma: float) -> Tensor:
    return theta_of(torch.tensor(mean, dtype=torch.float64), sigma, candidate.noise, candidate.sign)


def pure_shapes() -> dict[str, Tensor]:
    """Maps of one unit, by their f'."""

    def unit(kind: str, weight: float) -> Tensor:
        numbers = torch.zeros(COUNT, dtype=torch.float64)
        index = [each.__name__ for each in KINDS].index(kind) * OF_A_KIND
        numbers[index], numbers[UNITS + index] = 1.0, weight
        return numbers

    ends = {name: torch.eye(COUNT, dtype=torch.float64)[place] for name, place in (("log p", -1), ("p", -2))}
    return {
        **ends,
        "p^2": unit("square", 1.0),
        "p^3": unit("cube", 1.0),
        "exp(8 p)": unit("exponential", 8.0),
    }


def table(forecasts: Mapping[str, Sequence[float]]) -> str:
    """Gold rewards by generation, in Markdown."""
    generations = max(map(len, forecasts.values()))
    lines = [f"| search | start | {' | '.join(str(number + 1) for number in range(generations - 1))} |"]
    lines.append("|" + "---|" * (generations + 1))
    lines += [
        f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in forecasts.items()
    ]
    return "\n".join(lines)


def forecaster_of(settings: Config, scale: Config | None) -> Forecaster:
    """The world of a search.

    Args:
        settings: of its cells.
        scale: settings of the strength of its maps, if they have one.

    Raises:
        ValueError: for a penalty whose end is not in closed form.
    """
    components = build_components(settings)
    divergence = components.penalty.divergence
    if not (isinstance(divergence, ExactBregman) and divergence.direction == "reverse"):
        raise ValueError(
            f"divergence={type(divergence).__name__}: the closed form is of "
            "divergence._target_=mirrorpo.divergence.bregman.ExactBregman with direction=reverse"
        )
    return Forecaster(
        world=world_of(components),
        beta=float(settings["divergence"]["beta"]) / reward_scale(components),
        scale=None if scale is None else MapScale(**scale),
    )


def forecasts(overrides: Sequence[str], seeds: Sequence[int], deviation: float) -> str:
    """The forecast of a search, in Markdown; Hydra is set up for the shipped configs.

    Args:
        overrides: of its command line.
        seeds: of its noise; empty is its own.
        deviation: of what is added to a fitness.

    Raises:
        ValueError: naming the setting.
    """
    given = [SEARCH, *overrides, "divergence=neural_mirror_candidate"]
    node = compose("train", overrides=given, return_hydra_config=True).hydra.sweeper
    sweeper = cast("dict[str, Any]", OmegaConf.to_container(node))
    search = get_class(sweeper["_target_"])
    if not issubclass(search, MapSweeper):
        raise ValueError(
            f"hydra.sweeper._target_={sweeper['_target_']}: it is no search; use hydra/sweeper=es or cma"
        )
    names, seeds = ("search", "start", "scale"), seeds or [sweeper["search"].get("seed")]
    with settings_named({name: sweeper[name] for name in names}):
        forecaster = forecaster_of(composed(given), sweeper["scale"])
        start = RandomParameters(**sweeper["start"]).values
        # One for each search, since the rules of some remember their generations.
        searches = [
            (
                f"{'null, ' if shuffled else ''}seed {seed}",
                search.rules_of({**sweeper["search"], "seed": seed}),
                shuffled,
            )
            for seed in seeds
            for shuffled in (False, True)
        ]
    rows = {
        name: forecaster.search(rules, start, sweeper["generations"], deviation=deviation, shuffled=shuffled)
        for name, rules, shuffled in searches
    }
    shapes = {name: forecaster.gold(numbers) for name, numbers in pure_shapes().items()}
    heads, golds = " | ".join(shapes), " | ".join(f"{gold:.3f}" for gold in shapes.values())
    return f"{table(rows)}\n\n| f' | {heads} |\n{'|---' * (len(shapes) + 1)}|\n| gold | {golds} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the forecast of a search."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.launch.search_forecast"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as of train.py")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of a fitness")
    parser.add_argument("--seeds", default="", help="of the search, with commas; else its own")
    given = parser.parse_intermixed_args(arguments)

    def show() -> None:
        register()
        with initialize_config_dir(str(conf()), version_base="1.3"):
            seeds = [int(seed) for seed in given.seeds.split(",") if seed]
            print(forecasts(given.overrides, seeds, given.noise))

    or_exit(show)


if __name__ == "__main__":
    main()
