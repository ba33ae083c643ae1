"""Evolution strategies: candidates, steps, noise and equal fitness, failures, the papers' public rule.

A known optimum is reached by a real search and not by a null one.
"""

import dataclasses
import math
import statistics

import pytest
import torch
from one_decision import distance
from torch import Tensor

from mirrorpo.divergence.candidate import POSITIVITY, noise
from mirrorpo.divergence.neural_mirror import RandomParameters
from mirrorpo.launch.evolution import Evolution, Generation, Tried, Try, shaped

DEFAULT = {
    "pairs": 5,
    "sigma": 0.5,
    "decay": 0.99,
    "step": 1.0,
    "rule": "paired",
    "shaping": "ranks",
    "accept": "always",
    "keep": True,
    "positivity": "softplus",
    "seed": 42,
}
PUBLISHED = {
    **DEFAULT,
    "sigma": 0.01,
    "step": 0.01,
    "rule": "published",
    "shaping": "raw",
    "accept": "improved",
    "positivity": "clip",
}
START = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
MAP = RandomParameters(seed=42, scale=0.01, signed=False).values


def rules(**changes) -> Evolution:
    return Evolution(**{**DEFAULT, **changes})


def published(**changes) -> Evolution:
    return Evolution(**{**PUBLISHED, **changes})


def moved(before: Generation, after: Generation) -> Tensor:
    first, second = (torch.tensor(entry.mean, dtype=torch.float64) for entry in (before, after))
    return second - first


def test_candidates_come_in_antithetic_pairs_and_are_new_in_each_generation() -> None:
    search = rules()
    first = search.start(START)
    candidates = search.ask(first)
    assert [candidate.sign for candidate in candidates] == [1, -1] * 5
    seeds = [candidate.noise for candidate in candidates]
    assert seeds[::2] == seeds[1::2] and len(set(seeds)) == 5
    later = search.tell(first, dict.fromkeys(candidates, 1.0))
    assert not {candidate.noise for candidate in search.ask(later)} & set(seeds)
    assert search.ask(first) == candidates, "asked again, as after a kill, it is the same"


def test_a_step_is_of_differences_within_pairs_in_units_of_sigma() -> None:
    search = rules(pairs=2, shaping="scores", positivity="none", step=0.5, sigma=0.1)
    first = search.start(START)
    candidates = search.ask(first)
    fitness = dict(zip(candidates, [3.0, 1.0, 5.0, 6.0], strict=True))
    spread = statistics.pstdev(fitness.values())
    sum_ = 2.0 * noise(candidates[0].noise, 3) - 1.0 * noise(candidates[2].noise, 3)
    expected = 0.5 * 0.1 * sum_ / (2 * 2 * spread)
    after = search.tell(first, fitness)
    assert torch.allclose(moved(first, after), expected, rtol=1e-9)
    assert (after.number, after.best, after.sigma) == (1, 3.75, pytest.approx(0.099))
    # Neither the level of fitness nor its unit matters.
    other = search.tell(first, {candidate: 1e3 * value - 7 for candidate, value in fitness.items()})
    assert torch.allclose(moved(first, other), expected, rtol=1e-9)


@pytest.mark.parametrize("shaping", ["scores", "ranks"])
@pytest.mark.parametrize("accept", ["always", "improved"])
def test_equal_fitness_moves_nothing_whatever_was_kept(shaping: str, accept: str) -> None:
    search = rules(shaping=shaping, accept=accept)
    # The generation that moved a map by 16 times its norm: two candidates of different pairs were the best.
    generation = search.start(MAP)
    generation = search.tell(generation, dict.fromkeys(search.ask(generation), 0.824))
    assert generation.mean == search.start(MAP).mean
    values = [0.824 if number in (0, 2) else 0.82 for number in range(10)]
    generation = search.tell(generation, dict(zip(search.ask(generation), values, strict=True)))
    assert [entry.candidate.sign for entry in generation.kept] == ([1, -1] if accept == "improved" else [])
    after = search.tell(generation, dict.fromkeys(search.ask(generation), 0.826))
    # What was kept still counts, by the difference within its pair.
    assert float(moved(generation, after).abs().max()) <= search.sigma
    assert search.tell(after, dict.fromkeys(search.ask(after), 0.83)).mean == after.mean


def test_no_coordinate_moves_by_more_than_sigma() -> None:
    search = rules(pairs=1)
    first = search.start(MAP)
    after = search.tell(first, dict(zip(search.ask(first), [1e9, -1e9], strict=True)))
    assert float(moved(first, after).abs().max()) == pytest.approx(0.5)


def sizes_on_noise(searches: int, scale: float) -> list[float]:
    """Of the maps after 15 generations of random fitness, in their starts' norms, sorted."""
    stream = torch.Generator().manual_seed(1)
    sizes = []
    for seed in range(searches):
        search = rules(seed=seed)
        generation = search.start(MAP)
        for _ in range(15):
            draws = (0.82 + scale * torch.randn(10, generator=stream)).tolist()
            generation = search.tell(generation, dict(zip(search.ask(generation), draws, strict=True)))
        sizes.append(float(search.numbers(generation.mean).norm() / MAP.norm()))
    return sorted(sizes)


def test_on_noise_a_map_stays_within_twice_its_start() -> None:
    assert sizes_on_noise(10, 0.017)[-1] < 2


@pytest.mark.slow
def test_on_noise_95_of_100_maps_stay_within_twice_their_start() -> None:
    for scale in (0.017, 0.002):
        sizes = sizes_on_noise(50, scale)
        print(f"noise of {scale}: median {sizes[25]:.2f}, 95% {sizes[47]:.2f}, largest {sizes[-1]:.2f}")
        assert sizes[47] < 2


def test_ranks_see_no_scale_and_no_outlier() -> None:
    first, second = (torch.tensor(values) for values in ([1.0, 2.0, 3.0], [-5.0, 0.0, 1e9]))
    assert torch.equal(shaped(first, "ranks"), shaped(second, "ranks"))
    assert float(shaped(torch.tensor([1.0, 2.0, 2.0, 9.0]), "ranks").sum()) == pytest.approx(0, abs=1e-6)


def test_a_generation_that_is_no_better_is_not_followed_and_its_best_pairs_are_counted_again() -> None:
    search = rules(pairs=10, accept="improved")
    first = search.start(START)
    better = search.tell(first, dict(zip(search.ask(first), range(20), strict=True)))
    candidates = search.ask(better)
    fitness = {candidate: 0.1 * number for number, candidate in enumerate(candidates)}
    worse = search.tell(better, fitness)
    assert worse.mean == better.mean and worse.best == better.best == 9.5
    # N = 20: max(2, 2 floor(floor(20 / 4) / 2)) = 4 candidates, two pairs.
    assert [entry.candidate for entry in worse.kept] == candidates[18:] + candidates[16:18]
    good = dict(zip(search.ask(worse), range(100, 120), strict=True))
    without = dataclasses.replace(worse, kept=())
    assert search.tell(worse, good).mean != search.tell(without, good).mean
    assert search.tell(worse, good).kept == ()
    assert rules(pairs=10, accept="improved", keep=False).tell(better, fitness).kept == ()
    assert rules(pairs=10).tell(better, fitness).mean != better.mean


def test_the_theta_of_the_best_generation_is_remembered_beside_the_last() -> None:
    search = rules()
    thetas, generation = [], search.start(START)
    for level in (1.0, 3.0, 2.0):
        thetas.append(generation.mean)
        values = [level + 0.01 * number for number in range(10)]
        generation = search.tell(generation, dict(zip(search.ask(generation), values, strict=True)))
    assert generation.best_mean == thetas[1] != generation.mean and generation.best == pytest.approx(3.045)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_failed_candidate_takes_its_pair_with_it_and_is_counted(bad: float | None) -> None:
    search = rules(pairs=3)
    first = search.start(START)
    candidates = search.ask(first)
    fitness: dict[Try, float | None] = {candidate: float(k) for k, candidate in enumerate(candidates)}
    fitness[candidates[2]] = bad
    after = search.tell(first, fitness)
    assert after.discarded == 2 and after.best == 2.5
    fitness[candidates[3]] = bad
    assert search.tell(first, fitness).mean == after.mean
    with pytest.raises(ValueError, match="generation 0: no pair"):
        search.tell(first, dict.fromkeys(candidates, bad))


@pytest.mark.parametrize("name", POSITIVITY)
def test_each_way_to_stay_positive_begins_at_the_start_and_none_of_them_leaves(name: str) -> None:
    search = rules(positivity=name)
    assert torch.allclose(search.numbers(search.start(START).mean), START, rtol=1e-12)
    if name != "none":
        assert bool((search.numbers(torch.linspace(-90, 90, 50).tolist()) >= 0).all())
        with pytest.raises(ValueError, match="use positivity=none"):
            search.start(-START)


def test_settings_that_make_no_search_are_named() -> None:
    wrong = (("pairs", 0), ("sigma", 0.0), ("decay", 1.1), ("step", -1.0), ("rule", "mine"))
    wrong = (*wrong, ("pairs", 1.5), ("seed", None))
    for name, value in (*wrong, ("shaping", "raw"), ("accept", "never"), ("positivity", "abs")):
        with pytest.raises(ValueError, match=f"search.*{name}={value}"):
            rules(**{name: value})
    with pytest.raises(ValueError, match="shaping=ranks: rule=published has raw"):
        published(shaping="ranks")


# ---------------------------------------------------------------- the papers' public rule


def test_the_published_step_is_the_papers_sum_over_positive_fitnesses_and_all_that_ran() -> None:
    search = published(pairs=2, positivity="none")
    first = search.start(START)
    candidates = search.ask(first)
    # One is negative and one failed: three ran, and the failed one's partner counts.
    fitness = dict(zip(candidates, [2.0, -1.0, None, 3.0], strict=True))
    after = search.tell(first, fitness)
    expected = 0.01 * (2 * noise(candidates[0].noise, 3) - 3 * noise(candidates[3].noise, 3)) / (3 * 0.01)
    assert torch.allclose(moved(first, after), expected, rtol=1e-9)
    assert after.best == pytest.approx(4 / 3) and after.discarded == 1


def test_the_published_rule_keeps_the_best_of_old_and_new_and_judges_with_them() -> None:
    search = published()
    start = search.start(MAP)
    old = [Tried(Try(1, 1), 9.0), Tried(Try(2, -1), 0.0)]
    generation = dataclasses.replace(start, number=1, best=5.0, kept=tuple(old))
    candidates = search.ask(generation)
    refused = search.tell(generation, dict(zip(candidates, [4.0, *[1.0] * 9], strict=True)))
    assert refused.mean == start.mean
    assert [entry.fitness for entry in refused.kept] == [9.0, 4.0]
    # Ten new ones at 4.9 are below 5 by themselves, and with the old 9 above it; N stays 10.
    taken = search.tell(dataclasses.replace(generation, kept=(old[0],)), dict.fromkeys(candidates, 4.9))
    expected = 0.01 * 9 * noise(1, 380) / (10 * 0.01)
    assert torch.allclose(moved(generation, taken), expected, atol=1e-9) and taken.kept == ()


def test_equal_fitness_with_an_unpaired_candidate_moves_the_published_rule_by_many_norms() -> None:
    search = published()
    generation = search.start(MAP)
    generation = search.tell(generation, dict.fromkeys(search.ask(generation), 0.824))
    values = [0.824 if number in (0, 2) else 0.82 for number in range(10)]
    generation = search.tell(generation, dict(zip(search.ask(generation), values, strict=True)))
    after = search.tell(generation, dict.fromkeys(search.ask(generation), 0.826))
    assert float(moved(generation, after).norm() / MAP.norm()) > 10


# ---------------------------------------------------------------- a world whose best map is known


def endpoint(search: Evolution, generations: int, *, shuffled: bool) -> float:
    """The distance to the optimum at the end of a search for it."""
    stream = torch.Generator().manual_seed(search.seed)
    generation = search.start(MAP)
    for _ in range(generations):
        candidates = search.ask(generation)
        mean = torch.tensor(generation.mean, dtype=torch.float64)
        thetas = [mean + entry.sign * generation.sigma * noise(entry.noise, 380) for entry in candidates]
        fitness = [-distance(search.numbers(theta.tolist())) for theta in thetas]
        if shuffled:
            fitness = [fitness[k] for k in torch.randperm(len(fitness), generator=stream).tolist()]
        generation = search.tell(generation, dict(zip(candidates, fitness, strict=True)))
    return distance(search.numbers(generation.mean))


def test_negative_entropy_is_the_best_map_of_the_world() -> None:
    entropy = torch.zeros(380, dtype=torch.float64)
    entropy[379] = 1.0
    assert distance(entropy) < 1e-6 and distance(7 * entropy) < 1e-6
    assert distance(MAP) > 0.9


def test_a_search_is_halfway_after_half_its_generations_and_the_null_search_is_nowhere() -> None:
    assert endpoint(rules(), 7, shuffled=False) < 0.5 * distance(MAP)
    assert endpoint(rules(), 7, shuffled=True) > 0.8 * distance(MAP)


@pytest.mark.slow
def test_every_one_of_ten_searches_arrives_and_no_null_search_does() -> None:
    real = [endpoint(rules(seed=seed), 15, shuffled=False) for seed in range(10)]
    null = [endpoint(rules(seed=seed), 15, shuffled=True) for seed in range(10)]
    print("distance at the end:", [f"{value:.4f}" for value in real], "null:", [f"{v:.3f}" for v in null])
    assert max(real) < 0.1 * distance(MAP) and min(null) > 0.5 * distance(MAP)
