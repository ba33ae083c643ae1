"""CMA-ES: the known optimum, a failed candidate, and a search that is gone on with."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("cma", reason="the package cma is not installed: pip install 'mirrorpo[cma]'")

from one_decision import distance

from mirrorpo.divergence.neural_mirror import RandomParameters
from mirrorpo.launch.cma_search import CmaSearch
from mirrorpo.launch.evolution import Generation

DEFAULT = {"candidates": 10, "sigma": 0.5, "diagonal": True, "positivity": "softplus", "seed": 42}
MAP = RandomParameters(seed=42, scale=0.01, signed=False).values


def rules(**changes) -> CmaSearch:
    return CmaSearch(**{**DEFAULT, **changes})


def thetas(search: CmaSearch, generation: Generation) -> list:
    points = search.points(generation)
    return [points[search.point_of(generation, candidate)][0] for candidate in search.ask(generation)]


def fitness_of(search: CmaSearch, generation: Generation) -> dict:
    values = [-distance(search.numbers(theta)) for theta in thetas(search, generation)]
    return dict(zip(search.ask(generation), values, strict=True))


def test_it_comes_nearer_to_the_known_optimum_and_one_that_goes_on_draws_the_same() -> None:
    search = rules()
    generations, told = [search.start(MAP)], []
    for _ in range(8):
        told.append(fitness_of(search, generations[-1]))
        generations.append(search.tell(generations[-1], told[-1]))
    assert generations[-1].best > -0.5 * distance(MAP) and generations[-1].discarded == 0
    # Another process, whose numpy has drawn something else, takes in what is stored.
    np.random.seed(7)
    again = rules()
    assert again.start(MAP) == generations[0]
    for generation, fitness in zip(generations, told, strict=False):
        again.replay(generation, fitness)
        np.random.rand()
    assert thetas(again, generations[-1]) == thetas(search, generations[-1])


def test_a_candidate_without_a_fitness_does_not_count() -> None:
    search = rules()
    first = search.start(MAP)
    values = {candidate: float(candidate.noise) for candidate in search.ask(first)}
    after = search.tell(first, {**values, search.ask(first)[0]: None, search.ask(first)[1]: math.nan})
    assert after.discarded == 2 and after.best == pytest.approx(5.5)
    assert bool(torch.isfinite(torch.tensor(after.mean)).all())


@pytest.mark.parametrize("count", [4, 5, 10, 12])
def test_half_of_the_candidates_are_enough_and_fewer_are_named(count: int) -> None:
    for left in (count // 2 - 1, count // 2):
        search = rules(candidates=count)
        first = search.start(MAP)
        values = {candidate: float(candidate.noise) for candidate in search.ask(first)[:left]}
        if left < count // 2:
            said = f"generation 0: {left} of hydra.sweeper.search.candidates={count} .* needs {count // 2};"
            with pytest.raises(ValueError, match=said):
                search.tell(first, values)
        else:
            assert search.tell(first, values).discarded == count - left


def test_settings_that_make_no_search_are_named() -> None:
    seeds = (("seed", None), ("seed", -1), ("seed", 2**32), ("seed", 1.5))
    for name, value in (
        ("candidates", 3),
        ("candidates", 4.5),
        ("sigma", 0.0),
        ("positivity", "abs"),
        *seeds,
    ):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            rules(**{name: value})
