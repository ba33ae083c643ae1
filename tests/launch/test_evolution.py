"""Evolution strategies: what is asked, what a step is, what a failure costs, and that a known optimum is
approached.
"""

import itertools
import math
import statistics

import pytest
import torch
from torch import Tensor

from mirrorpo.divergence.candidate import POSITIVITY, noise
from mirrorpo.divergence.neural_mirror import NeuralMirror, RandomParameters
from mirrorpo.launch.evolution import Evolution, Generation, Try, shaped
from mirrorpo.tools.plot_mirror_maps import Numbers

PUBLIC = {
    "pairs": 3,
    "sigma": 0.1,
    "decay": 0.9,
    "step": 0.5,
    "shaping": "raw",
    "accept": "improved",
    "keep": True,
    "positivity": "none",
    "seed": 42,
}


def rules(**changes) -> Evolution:
    return Evolution(**{**PUBLIC, **changes})


START = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def test_candidates_come_in_antithetic_pairs_and_are_new_in_each_generation() -> None:
    search = rules()
    first = search.start(START)
    asked = search.ask(first)
    assert [one.sign for one in asked] == [1, -1] * 3
    assert [one.noise for one in asked[::2]] == [one.noise for one in asked[1::2]] and len(
        {one.noise for one in asked}
    ) == 3
    later = search.tell(first, dict.fromkeys(asked, 1.0))
    assert not {one.noise for one in search.ask(later)} & {one.noise for one in asked}
    assert search.ask(first) == asked, "asked again, as after a kill, it is the same"


def test_the_step_is_the_papers_sum() -> None:
    search = rules()
    first = search.start(START)
    fitness = {one: float(index) for index, one in enumerate(search.ask(first))}
    expected = torch.tensor(first.mean, dtype=torch.float64)
    for one, value in fitness.items():
        expected = expected + search.step * value * one.sign * noise(one.noise, 3) / (6 * 0.1)
    after = search.tell(first, fitness)
    assert (
        after.mean == pytest.approx(expected.tolist(), rel=1e-12)
        and after.best == 2.5
        and after.sigma == pytest.approx(0.09)
        and after.number == 1
    )


def test_with_equal_fitnesses_pairs_cancel() -> None:
    search = rules()
    first = search.start(START)
    assert search.tell(first, dict.fromkeys(search.ask(first), 7.0)).mean == pytest.approx(
        first.mean, abs=1e-12
    )


def test_ranks_see_no_scale_and_no_outlier() -> None:
    assert torch.equal(shaped([1.0, 2.0, 3.0], "ranks"), shaped([-5.0, 0.0, 1e9], "ranks"))
    assert float(shaped([1.0, 2.0, 2.0, 9.0], "ranks").sum()) == 0.0


def test_a_generation_that_is_no_better_is_not_followed_and_its_best_are_counted_again() -> None:
    search = rules(pairs=5)
    first = search.start(START)
    better = search.tell(first, dict.fromkeys(search.ask(first), 1.0))
    asked = search.ask(better)
    fitness = {one: 0.1 * index for index, one in enumerate(asked)}
    worse = search.tell(better, fitness)
    assert worse.mean == better.mean and worse.best == 1.0 and worse.number == 2
    # N = 10: max(2, 2 floor(floor(10 / 4) / 2)) = 2
    assert [(entry.candidate, entry.fitness) for entry in worse.kept] == [
        (asked[9], fitness[asked[9]]),
        (asked[8], fitness[asked[8]]),
    ]
    with_kept = search.tell(worse, dict.fromkeys(search.ask(worse), 2.0))
    without = search.tell(
        Generation(worse.number, worse.mean, worse.sigma, worse.best, (), 0),
        dict.fromkeys(search.ask(worse), 2.0),
    )
    assert with_kept.mean != without.mean and with_kept.kept == ()
    assert rules(pairs=5, keep=False).tell(better, fitness).kept == ()
    assert rules(pairs=5, accept="always").tell(better, fitness).mean != better.mean


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_failed_candidate_takes_its_pair_with_it_and_is_counted(bad: float | None) -> None:
    search = rules()
    first = search.start(START)
    asked = search.ask(first)
    fitness: dict[Try, float | None] = {one: float(index) for index, one in enumerate(asked)}
    fitness[asked[2]] = bad
    after = search.tell(first, fitness)
    assert after.discarded == 2
    expected = torch.tensor(first.mean, dtype=torch.float64)
    for index in (0, 1, 4, 5):
        expected = expected + search.step * index * asked[index].sign * noise(asked[index].noise, 3) / (
            4 * 0.1
        )
    assert after.mean == pytest.approx(expected.tolist(), rel=1e-12)
    with pytest.raises(ValueError, match="generation 0: no pair"):
        search.tell(first, dict.fromkeys(asked, bad))


@pytest.mark.parametrize("name", POSITIVITY)
def test_each_way_to_stay_positive_begins_where_it_is_told_and_none_of_them_leaves(name: str) -> None:
    search = rules(positivity=name)
    assert torch.allclose(search.numbers(search.start(START).mean), START, rtol=1e-12)
    if name != "none":
        assert bool((search.numbers(torch.linspace(-90, 90, 50).tolist()) >= 0).all())
        with pytest.raises(ValueError, match="use positivity=none"):
            search.start(-START)


@pytest.mark.parametrize(
    "changes",
    [
        {"pairs": 0},
        {"sigma": 0.0},
        {"decay": 1.1},
        {"step": -1.0},
        {"shaping": "sorted"},
        {"positivity": "abs"},
    ],
)
def test_settings_that_make_no_search_are_named(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        rules(**changes)


# ---------------------------------------------------------------- a bandit whose best map is known

# As small as the random map is weak, so that its step is no leap.
REWARDS = 0.01 * torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=torch.float64)
BEFORE = torch.tensor([0.1, 0.3, 0.4, 0.2], dtype=torch.float64)
P = torch.logspace(-6, 0, 400, dtype=torch.float64)


def step(numbers: Tensor) -> Tensor:
    """argmax_pi <r, pi> - D_f(pi, before): f'(pi_a) = f'(before_a) + r_a - lambda, with the lambda that makes
    it sum to one.
    """
    mirror = NeuralMirror(parameters=Numbers(numbers))
    slopes, at = mirror.df(P), mirror.df(BEFORE)

    def inverse(value: Tensor) -> Tensor:
        place = torch.searchsorted(slopes, value).clamp(1, len(P) - 1)
        low, high = slopes[place - 1], slopes[place]
        share = ((value - low) / (high - low)).clamp(0, 1)
        return torch.exp(P[place - 1].log() * (1 - share) + P[place].log() * share)

    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(inverse(at + REWARDS - middle).sum()) > 1 else (low, middle)
    policy = inverse(at + REWARDS - low)
    return policy / policy.sum()


WANTED = torch.softmax(BEFORE.log() + REWARDS / 0.01, dim=0)


def distance(numbers: Tensor) -> float:
    """KL from the policy that negative entropy gives, which is known in closed form, to the map's; zero is
    the best there is.
    """
    return float((WANTED * (WANTED / step(numbers)).log()).sum())


def test_negative_entropy_is_the_best_map_of_the_bandit() -> None:
    entropy = torch.zeros(380, dtype=torch.float64)
    entropy[379] = 0.01
    assert distance(entropy) < 1e-6 < distance(RandomParameters(seed=42, scale=0.01, signed=False).values)


def test_the_search_comes_nearer_to_the_known_optimum_generation_by_generation() -> None:
    found: list[list[float]] = []
    for seed in range(5):
        search = Evolution(
            pairs=6,
            sigma=0.3,
            decay=0.9,
            step=0.3,
            shaping="ranks",
            accept="always",
            keep=False,
            positivity="softplus",
            seed=seed,
        )
        generation = search.start(RandomParameters(seed=seed, scale=0.01, signed=False).values)
        path = [distance(search.numbers(generation.mean))]
        for _ in range(9):
            tries = search.ask(generation)
            moved = {
                one: torch.tensor(generation.mean, dtype=torch.float64)
                + one.sign * generation.sigma * noise(one.noise, 380)
                for one in tries
            }
            generation = search.tell(
                generation, {one: -distance(search.numbers(theta.tolist())) for one, theta in moved.items()}
            )
            path.append(distance(search.numbers(generation.mean)))
        found.append(path[::3])
    median = [statistics.median(column) for column in zip(*found, strict=True)]
    print("median distance", [f"{value:.4f}" for value in median])
    assert all(later < earlier for earlier, later in itertools.pairwise(median)), median
    assert median[-1] < median[0] / 5
