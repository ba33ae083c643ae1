"""What generated datasets share: refusals, splits, and habits that draw nothing where none is asked for."""

import itertools
import random
from functools import partial

import pytest

from mirrorpo.core.batch import Prompt
from mirrorpo.dataset.generated import SPLIT_BOUNDS, check_habits, check_sizes, filled, habit
from mirrorpo.dataset.split import bucket

KNOWN = ("careful", "slip", "hasty")


def prompt(question: str, progress: float) -> Prompt:
    return Prompt(uid=question, question=question, gold=str(progress), demonstration="")


def questions(most: int):
    numbers = iter(range(10**6))

    def draw():
        question = f"what is {next(numbers) % most}?"
        return question, partial(prompt, question)

    return draw


def test_the_bounds_part_the_whole() -> None:
    bounds = sorted(SPLIT_BOUNDS.values())
    assert (
        bounds[0][0] == 0.0
        and bounds[-1][1] == 1.0
        and all(one[1] == two[0] for one, two in itertools.pairwise(bounds))
    )


@pytest.mark.parametrize("split", SPLIT_BOUNDS)
def test_a_split_is_distinct_questions_of_its_own_in_the_order_drawn(split) -> None:
    found = filled(split, 5, questions(10**6), "")
    low, high = SPLIT_BOUNDS[split]
    expected = [text for text in (f"what is {n}?" for n in range(1000)) if low <= bucket(text) < high][:5]
    assert [one.question for one in found] == expected and [one.gold for one in found] == [
        "0.0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
    ]


def test_too_few_questions_are_said_after_the_stated_number_of_draws() -> None:
    drawn = []
    draw = questions(3)

    def counted():
        drawn.append(1)
        return draw()

    with pytest.raises(ValueError, match=r"dataset\.train_size=9: there are not that many things"):
        filled("train", 9, counted, "things")
    assert len(drawn) == 1000 + 200 * 9


@pytest.mark.parametrize(("low", "high", "size"), [(0, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_sizes_that_hold_nothing_are_refused(low: int, high: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"dataset\.(min_steps|train_size)"):
        check_sizes({"train": size}, low, high)


@pytest.mark.parametrize("habits", [{"sloppy": 1.0}, {"careful": 0.5}, {"careful": 1.5, "slip": -0.5}])
def test_shares_that_are_none_are_refused(habits: dict[str, float]) -> None:
    check_habits({}, KNOWN)
    check_habits({"careful": 0.25, "slip": 0.75}, KNOWN)
    with pytest.raises(ValueError, match=r"dataset\.habits"):
        check_habits(habits, KNOWN)


def test_habits_begin_where_they_are_told_and_draw_nothing_before() -> None:
    rng = random.Random(0)
    before = rng.getstate()
    assert (
        habit({}, KNOWN, 0.0, 1.0, rng) == habit({"slip": 1.0}, KNOWN, 0.5, 0.4, rng) == "careful"
        and rng.getstate() == before
    )
    assert habit({"slip": 1.0}, KNOWN, 0.5, 0.5, rng) == "slip" and rng.getstate() != before
