"""reasoning-gym's chain_sum: what the questions say, and that no split sees another's."""

import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Dataset, Split
from mirrorpo.dataset.chain_sum import ChainSum
from mirrorpo.dataset.split import bucket

SETTINGS: Mapping[str, Any] = {
    "data_seed": 0,
    "train_size": 300,
    "validation_size": 100,
    "test_size": 50,
    "validation_fraction": 0.3,
    "test_fraction": 0.1,
    "min_terms": 2,
    "max_terms": 4,
    "min_digits": 1,
    "max_digits": 2,
    "allow_negation": False,
    "system": "",
    "user": "{question}",
}
SPLITS: Sequence[Split] = ("train", "validation", "test")
QUESTION = re.compile(
    r"State the final answer to the following arithmetic problem: (-?\d+(?: [+-] -?\d+)*) ="
)
needs_library = pytest.mark.skipif(
    find_spec("reasoning_gym") is None,
    reason="NOT TESTED: dataset=chain_sum; pip install reasoning-gym==0.1.25",
)


def data(**changes: Any) -> ChainSum:
    return ChainSum(**{**SETTINGS, **changes})


def terms(prompt: Prompt) -> list[int]:
    """The numbers of the expression, those behind a minus turned around."""
    match = QUESTION.fullmatch(prompt.question)
    assert match, prompt.question
    first, *rest = match[1].split(" ")
    return [
        int(first),
        *(
            int(number) if sign == "+" else -int(number)
            for sign, number in zip(rest[::2], rest[1::2], strict=True)
        ),
    ]


def test_it_keeps_the_contract_of_a_dataset() -> None:
    assert isinstance(data(), Dataset)


@needs_library
@pytest.mark.parametrize("negation", [False, True])
def test_gold_is_the_sum_that_the_question_asks_for(negation: bool) -> None:
    prompts = data(allow_negation=negation).load("train")
    assert all(sum(terms(prompt)) == int(prompt.gold) for prompt in prompts)
    assert any(" -" in prompt.question and " - " not in prompt.question for prompt in prompts) == negation
    assert all(prompt.demonstration == f"#### {prompt.gold}" for prompt in prompts)


@needs_library
def test_the_settings_bound_terms_and_digits() -> None:
    prompts = data(min_terms=3, max_terms=5, min_digits=2, max_digits=3).load("train")
    assert {len(terms(prompt)) for prompt in prompts} == {3, 4, 5}
    assert {len(str(abs(number))) for prompt in prompts for number in terms(prompt)} == {2, 3}


@needs_library
def test_splits_are_as_large_as_asked_and_no_question_stands_in_two_or_twice_in_one() -> None:
    # Two terms of one digit: 200 questions, which are drawn again and again.
    few = data(max_terms=2, max_digits=1, train_size=100, validation_size=40, test_size=10)
    asked = [[prompt.question for prompt in few.load(split)] for split in SPLITS]
    assert [len(questions) for questions in asked] == [100, 40, 10]
    assert len({question for questions in asked for question in questions}) == 150


@needs_library
def test_a_split_is_a_part_of_the_questions_hashes() -> None:
    held_out = data(validation_fraction=0.3, test_fraction=0.1)
    bounds = {"test": (0.0, 0.1), "validation": (0.1, 0.4), "train": (0.4, 1.0)}
    for split in SPLITS:
        low, high = bounds[split]
        assert all(low <= bucket(prompt.question) < high for prompt in held_out.load(split))


@needs_library
def test_a_question_keeps_its_name_in_every_dataset_and_a_name_stands_for_one_question() -> None:
    names = {
        prompt.question: prompt.uid
        for prompt in data(max_terms=2, max_digits=1, train_size=100).load("train")
    }
    others = {
        prompt.question: prompt.uid for prompt in data(max_terms=3, max_digits=1, data_seed=1).load("train")
    }
    shared = names.keys() & others.keys()
    assert len(shared) > 10 and all(names[question] == others[question] for question in shared)
    assert len(set(names.values())) == len(names)


@needs_library
def test_the_first_question_of_a_split_never_changes() -> None:
    first = [
        (prompt.question.partition(": ")[2], prompt.gold)
        for prompt in (data().load(split)[0] for split in SPLITS)
    ]
    assert first == [("4 + 6 - 9 - 0 =", "1"), ("3 + 2 =", "5"), ("8 + 3 =", "11")]


@needs_library
def test_a_smaller_split_is_the_beginning_of_a_larger_one_and_the_seed_makes_others() -> None:
    assert list(data(train_size=50).load("train")) == list(data().load("train"))[:50]
    assert data(data_seed=1).load("train")[0] != data().load("train")[0]


@needs_library
@pytest.mark.parametrize(
    "change",
    [{"data_seed": 1}, {"train_size": 299}, {"min_terms": 3}, {"max_digits": 3}, {"allow_negation": True}],
    ids=str,
)
def test_the_fingerprint_changes_with_what_changes_the_data(change: Mapping[str, Any]) -> None:
    assert data().fingerprint("train") == data().fingerprint("train") != data(**change).fingerprint("train")


@needs_library
def test_asking_for_more_questions_than_there_are_ends_with_an_error() -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"dataset\.test_size=50: there are not that many questions of such terms and digits; .*raise "
            r"dataset\.max_terms"
        ),
    ):
        data(max_terms=2, max_digits=1).load("test")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"min_terms": 0}, "dataset.min_terms=0 and max_terms=4"),
        ({"min_terms": 5}, "dataset.min_terms=5 and max_terms=4"),
        ({"min_digits": 0}, "dataset.min_digits=0"),
        ({"max_digits": 0}, "max_digits=0"),
        ({"test_size": 0}, "dataset.test_size=0"),
        ({"validation_fraction": 0.0}, "dataset.validation_fraction=0.0"),
        ({"test_fraction": 0.7}, "dataset.test_fraction=0.7"),
        ({"user": "What?"}, "dataset.user='What?'"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(changes: Mapping[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        data(**changes)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        ValueError,
        match=r"dataset=chain_sum: reasoning-gym cannot be imported.*pip install reasoning-gym==0\.1\.25",
    ):
        data().load("train")
