import math

import pytest
import torch

from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.weighting.reasoning import Range, Regions, entire_completion, regions

PAPER = {"low": 0.5, "high": 2.0, "least": 0.5, "answer": 1.5, "rest": 1.0}


def letters(text: str, silent: int = 0) -> TokenOffsets:
    return TokenOffsets(
        text=text,
        offsets=[(place, place + 1) for place in range(len(text))] + [(len(text), len(text))] * silent,
    )


def test_a_completion_reasons_up_to_the_mark_answers_behind_it_and_ends():
    assert regions(letters("1+1=2 #### 2\nbye", silent=1)) == Regions(reasoned=6, answered=12, length=17)
    assert regions(letters(r"So \boxed{2}.", silent=1)) == Regions(reasoned=3, answered=12, length=14)


@pytest.mark.parametrize("text", ["", "no answer", "1 + 1 = 2", "the answer is 2"])
def test_without_a_mark_there_are_no_regions(text: str):
    assert regions(letters(text)) is None


def test_a_mark_that_is_one_token_and_the_last_has_no_answer_to_score():
    assert regions(TokenOffsets(text="so ####", offsets=[(0, 3), (3, 7)])) is None
    assert regions(TokenOffsets(text="so ####", offsets=[(0, 3), (3, 7), (7, 7)])) is not None


def test_the_papers_map_sends_reasoning_to_one_and_a_quarter_up_to_two_the_answer_to_one_and_a_half():
    weights = Range(**PAPER)([0.0, 3.0, 1.0, 0.0], Regions(reasoned=4, answered=6, length=8))
    assert weights.tolist() == pytest.approx([1.25, 2.0, 1.5, 1.25, 1.5, 1.5, 1.0, 1.0])


def test_negative_importance_lies_below_that_of_plain_tokens():
    weights = Range(**PAPER)([0.0, 3.0, -3.0], Regions(reasoned=3, answered=4, length=4))
    assert weights.tolist() == pytest.approx([1.625, 2.0, 1.25, 1.5])


@pytest.mark.parametrize("importance", [[0.0, 0.0, 0.0], [2.5, 2.5, 2.5], []])
def test_equal_importances_give_ones_to_the_bit(importance: list[float]):
    where = Regions(reasoned=len(importance), answered=5, length=6)
    assert torch.equal(Range(**PAPER)(importance, where), torch.ones(6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": -1.0},
        {"high": 0.5},
        {"least": 1.0},
        {"least": -0.1},
        {"answer": -1.0},
        {"rest": -1.0},
        {"low": math.nan},
    ],
)
def test_a_map_that_is_none_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=r"weighting\.range"):
        Range(**PAPER | wrong)


def test_a_program_is_all_reasoning_up_to_tokens_without_text():
    assert entire_completion(letters("x = 1  #### 2", silent=1)) == Regions(
        reasoned=13, answered=13, length=14
    )
    assert entire_completion(letters("", silent=1)) is None
