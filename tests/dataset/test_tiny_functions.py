"""Short functions: what the words say is what the code does and the tests check, and the splits share
nothing.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mirrorpo.core.protocols import Dataset
from mirrorpo.dataset.tiny_functions import OPERATIONS, Function, TinyFunctions

SETTINGS: Mapping[str, Any] = {
    "data_seed": 0,
    "train_size": 300,
    "validation_size": 60,
    "test_size": 60,
    "min_steps": 1,
    "max_steps": 3,
    "argument_share": 0.3,
    "tests": 3,
    "habits": {},
    "habits_from": 0.0,
    "system": "",
    "user": "{question}",
}
DATA = TinyFunctions(**SETTINGS)


def passed(code: str, tests: Any) -> list[bool]:
    out = []
    for test in tests:
        namespace: dict[str, Any] = {}
        try:
            exec(code, namespace)
            exec(test, namespace)
            out.append(True)
        except Exception:
            out.append(False)
    return out


def test_every_reference_passes_its_tests() -> None:
    for prompt in (*DATA.load("train"), *DATA.load("test")):
        assert prompt.checks is not None and all(passed(prompt.gold, prompt.checks.hidden)), prompt.question
        assert (
            prompt.demonstration == prompt.gold
            and len(prompt.checks.hidden) == 3
            and not prompt.checks.visible
        )


@pytest.mark.parametrize("words", OPERATIONS)
def test_the_value_of_each_operation_is_that_of_its_code(words: str) -> None:
    for n in (2, 7, "y"):
        function = Function("change", [(words, n)])
        namespace: dict[str, Any] = {}
        exec(function.code("careful", random.Random(0)), namespace)
        for x in (-13, 0, 5, 40):
            assert namespace["change"](*((x, 4) if n == "y" else (x,))) == function.value(x, 4)


def test_words_and_signature() -> None:
    function = Function("move", [("add {n}", 3), ("keep the larger of it and {n}", "y")])
    assert function.question() == "Write move(x, y): add 3, then keep the larger of it and y."
    assert (
        function.code("careful", random.Random(0))
        == "def move(x, y):\n    x = x + 3\n    x = max(x, y)\n    return x"
    )


@pytest.mark.parametrize(
    ("habit", "code"),
    [("hasty", "x = x + 3\n    return x"), ("silent", "x = x + 3\n    x = x * 2"), ("slip", "")],
)
def test_a_habit_is_wrong_in_its_own_way(habit: str, code: str) -> None:
    function = Function("move", [("add {n}", 3), ("multiply by {n}", 2)])
    written = function.code(habit, random.Random(0))
    assert written != function.code("careful", random.Random(0)) and written.endswith(code)
    tests = [f"assert move({x}) == {function.value(x, 0)}" for x in (2, 5, 8)]
    assert passed(written, tests) == [False] * 3


def test_habits_set_in_where_they_are_told_to_in_their_shares() -> None:
    data = replace(DATA, habits={"careful": 0.5, "slip": 0.5}, habits_from=0.5)
    wrong = [prompt.demonstration != prompt.gold for prompt in data.load("train")]
    assert not any(wrong[:150]) and 40 < sum(wrong[150:]) < 110
    assert [prompt.gold for prompt in data.load("train")] == [prompt.gold for prompt in DATA.load("train")]


def test_splits_share_no_question_and_are_the_same_every_time() -> None:
    assert isinstance(DATA, Dataset)
    questions = [prompt.question for split in ("train", "validation", "test") for prompt in DATA.load(split)]
    assert len(set(questions)) == len(questions) == 420
    assert DATA.load("train") == TinyFunctions(**SETTINGS).load("train")
    assert DATA.fingerprint("train") != replace(DATA, data_seed=1).fingerprint("train")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"min_steps": 0}, "min_steps=0"),
        ({"tests": 0}, "dataset.tests=0"),
        ({"train_size": 0}, "dataset.train_size=0"),
        ({"argument_share": 2.0}, "argument_share=2.0"),
        ({"habits": {"careful": 0.5}}, "sum to one"),
        ({"habits": {"other": 1.0}}, "give shares of"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        TinyFunctions(**{**SETTINGS, **changes})


def test_more_functions_than_there_are_is_an_error() -> None:
    data = replace(DATA, max_steps=1, argument_share=1.0, train_size=500)
    with pytest.raises(ValueError, match="not that many functions of 1 steps"):
        data.load("train")
