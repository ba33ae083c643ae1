"""The endless walk over the prompts: each epoch a permutation, a position a plain count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirrorpo.rollout.prompt_order import FLOOR, DataOrder

sizes, seeds = st.integers(1, 40), st.integers(0, 2**31)
places = st.integers(0, 200)


def shuffled(size: int = 10, seed: int = 0) -> DataOrder:
    return DataOrder(size=size, seed=seed, order="shuffled")


@given(size=sizes, seed=seeds, epoch=st.integers(0, 5))
def test_an_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(shuffled(size, seed).take(epoch * size, size)) == list(range(size))


@given(size=sizes, seed=seeds, position=places, first=places, second=places)
def test_taking_in_two_parts_is_taking_at_once(
    size: int, seed: int, position: int, first: int, second: int
) -> None:
    order = shuffled(size, seed)
    assert order.take(position, first) + order.take(position + first, second) == order.take(
        position, first + second
    )


@given(size=sizes, seed=seeds, position=places)
def test_a_position_alone_resumes_the_walk(size: int, seed: int, position: int) -> None:
    walked = shuffled(size, seed)
    walked.take(0, position)
    assert walked.take(position, 7) == shuffled(size, seed).take(position, 7)


def test_a_walk_crosses_epochs() -> None:
    order = shuffled(10)
    assert order.take(8, 5) == order.take(0, 10)[8:] + order.take(10, 10)[:3]


def test_a_step_may_be_longer_than_an_epoch() -> None:
    assert sorted(shuffled(3).take(0, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_each_epoch_has_its_own_order() -> None:
    order = shuffled(50)
    epochs = [tuple(order.take(epoch * 50, 50)) for epoch in range(4)]
    assert len(set(epochs)) == 4


def test_each_seed_has_its_own_order() -> None:
    assert len({tuple(shuffled(50, seed).take(0, 50)) for seed in range(4)}) == 4


def test_a_shuffled_order_is_not_the_files() -> None:
    assert shuffled(50).take(0, 50) != list(range(50))


def test_a_sequential_order_is_the_files_whatever_the_seed() -> None:
    assert all(
        DataOrder(size=4, seed=seed, order="sequential").take(2, 7) == [2, 3, 0, 1, 2, 3, 0]
        for seed in range(3)
    )


def test_taking_nothing_gives_nothing() -> None:
    assert shuffled().take(5, 0) == []


def test_going_back_gives_the_same_prompts() -> None:
    order = shuffled(10)
    first = order.take(0, 10)
    order.take(50, 10)
    assert order.take(0, 10) == first


def test_what_a_caller_does_to_its_list_does_not_reach_the_walk() -> None:
    order = shuffled(10)
    first = order.take(0, 10)
    kept = list(first)
    first.clear()
    assert order.take(0, 10) == kept


def test_walks_of_different_sizes_do_not_meet_in_the_cache() -> None:
    long, short = shuffled(20), shuffled(5)
    long.take(0, 20)
    assert sorted(short.take(0, 5)) == [0, 1, 2, 3, 4]


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    order = shuffled(10, seed=123)
    before = torch.get_rng_state()
    first = order.take(0, 30)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert DataOrder(size=10, seed=123, order="shuffled").take(0, 30) == first


@pytest.mark.parametrize("index", range(4))
def test_each_prompt_may_come_first(index: int) -> None:
    # Over seeds the first prompt is uniform: 200 draws of 4, each expected 50 times.
    firsts = [shuffled(4, seed).take(0, 1)[0] for seed in range(200)]
    assert 30 < firsts.count(index) < 70


# ---------------------------------------------------------------- by tracked values


def informative(size: int, seed: int = 0) -> DataOrder:
    return DataOrder(size=size, seed=seed, order="informative")


def test_an_informative_order_draws_by_the_rewards_standard_deviation_and_a_floor() -> None:
    values = [0.0, 0.5, 0.9, 1.7]
    weights = [FLOOR, 0.5 + FLOOR, 0.3 + FLOOR, FLOOR]
    draws = 2000
    firsts = [informative(4).take(position, 1, values)[0] for position in range(draws)]
    for index, weight in enumerate(weights):
        chance = weight / sum(weights)
        # Four standard errors.
        assert firsts.count(index) / draws == pytest.approx(chance, abs=4 * (chance / draws) ** 0.5), index


def test_an_informative_step_has_each_prompt_once_and_is_a_function_of_position_and_values() -> None:
    values = [index / 20 for index in range(20)]
    taken = informative(20).take(40, 8, values)
    assert len(set(taken)) == 8 and informative(20).take(40, 8, values) == taken
    others = [
        informative(20).take(41, 8, values),
        informative(20, seed=1).take(40, 8, values),
        informative(20).take(40, 8, values[::-1]),
    ]
    assert taken not in others
    assert sorted(informative(3).take(0, 7, [0.1, 0.2, 0.3]))[:6] != [0] * 6
    assert {informative(3).take(0, 7, [0.1, 0.2, 0.3]).count(index) for index in range(3)} == {2, 3}
    with pytest.raises(ValueError, match="data_order=informative: no prompt's value is tracked"):
        informative(3).take(0, 1)
