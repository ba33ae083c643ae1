"""Arithmetic word problems, read back by a little parser that knows nothing of the generator."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from scipy.stats import chisquare

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Dataset, Split
from mirrorpo.dataset.arithmetic import Arithmetic

SETTINGS: Mapping[str, Any] = {
    "data_seed": 0,
    "train_size": 600,
    "validation_size": 200,
    "test_size": 200,
    "min_steps": 2,
    "max_steps": 3,
    "max_value": 50,
    "distractor_share": 0.5,
    "habits": {},
    "habits_from": 0.0,
    "system": "",
    "user": "{question}",
}
SPLITS: Sequence[Split] = ("train", "validation", "test")
SENTENCES = {
    "+": r"NAME (?:buys|finds|gets) (\d+) more\.",
    "-": r"NAME (?:gives away|loses|sells) (\d+)\.",
    "*": r"Soon NAME has (\d+) times as many\.",
    "/": r"NAME keeps 1 of (\d+) equal parts\.",
}
CALCULATES: Mapping[str, Callable[[Any, int], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: Fraction(a) / b,
}
# The worked line says everything twice, and both must agree.
LINE = re.compile(
    r"(\w+) has (?P<a>\d+) (?P<op>[-+*/]) (?P<b>\d+) = <<(?P=a)(?P=op)(?P=b)=(?P<c>\d+)>>(?P=c) (\w+)\."
)


@dataclass(frozen=True)
class Reading:
    """A question as its reader understands it: the way to the answer, and the number that does not matter."""

    changes: Sequence[tuple[str, int]]
    values: Sequence[Fraction]
    distractor: tuple[int, int] | None


def read(question: str) -> Reading:
    *sentences, asked = re.split(r"(?<=\.) ", question)
    thing, name = found(r"How many (\w+) does (\w+) have\?", asked)
    (start,) = found(rf"{name} has (\d+) {thing}\.", sentences.pop(0))
    changes: list[tuple[str, int]] = []
    values = [Fraction(start)]
    distractor = None
    for sentence in sentences:
        matches = {
            op: re.fullmatch(pattern.replace("NAME", name), sentence) for op, pattern in SENTENCES.items()
        }
        (match,) = [(op, int(match[1])) for op, match in matches.items() if match] or [None]
        if match is None:
            assert distractor is None, question
            distractor = (len(changes), int(found(rf"(?!{name} )\w+ has (\d+) \w+\.", sentence)[0]))
        else:
            changes.append(match)
            values.append(CALCULATES[match[0]](values[-1], match[1]))
    return Reading(changes, values, distractor)


def found(pattern: str, text: str) -> Sequence[str]:
    match = re.fullmatch(pattern, text)
    assert match, text
    return match.groups()


def worked(prompt: Prompt) -> tuple[list[tuple[int, str, int, int]], int]:
    """The calculations (a, operation, b, result) of a demonstration, and its final answer."""
    *lines, last = prompt.demonstration.split("\n")
    steps = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        steps.append((int(match["a"]), match["op"], int(match["b"]), int(match["c"])))
    return steps, int(found(r"#### (\d+)", last)[0])


def careless(a: int, op: str, b: int) -> int:
    """What a writer who lost his way may still get: nothing below zero, and quotients rounded down."""
    return max(int(CALCULATES[op](a, b)), 0)


def data(**changes: Any) -> Arithmetic:
    return Arithmetic(**{**SETTINGS, **changes})


def train(**changes: Any) -> Sequence[Prompt]:
    return data(**changes).load("train")


def with_habit(habit: str, **changes: Any) -> Sequence[Prompt]:
    return train(habits={habit: 1.0}, **changes)


def test_it_keeps_the_contract_of_a_dataset() -> None:
    assert isinstance(data(), Dataset)


# Splits


def test_no_question_stands_in_two_splits() -> None:
    large = data(train_size=4000, validation_size=1000, test_size=1000)
    asked = [{prompt.question for prompt in large.load(split)} for split in SPLITS]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]


def test_no_question_stands_twice_in_a_split() -> None:
    # One change and small numbers: duplicates are drawn all the time.
    prompts = train(min_steps=1, max_steps=1, max_value=10, distractor_share=0.0, train_size=2000)
    assert len({prompt.question for prompt in prompts}) == 2000


def test_a_name_stands_for_one_question() -> None:
    prompts = train(train_size=4000)
    assert len({prompt.uid for prompt in prompts}) == 4000


@pytest.mark.parametrize(("split", "size"), [("train", 600), ("validation", 200), ("test", 200)])
def test_a_split_is_as_large_as_asked(split: Any, size: int) -> None:
    assert len(data().load(split)) == size


FIRST = {
    # 3 + 11 = 14, 14 / 2 = 7, 7 * 2 = 14.
    "train": (
        "Mia has 3 stamps. Mia gets 11 more. Mia keeps 1 of 2 equal parts. Soon Mia has 2 times as many. How "
        "many stamps does Mia have?",
        "14",
        (
            "Mia has 3 + 11 = <<3+11=14>>14 stamps.\nMia has 14 / 2 = <<14/2=7>>7 stamps.\nMia has 7 * 2 = "
            "<<7*2=14>>14 stamps.\n#### 14"
        ),
    ),
    # Leo's shells are his; 23 * 2 = 46, 46 + 2 = 48.
    "validation": (
        "Zoe has 23 shells. Leo has 5 shells. Soon Zoe has 2 times as many. Zoe gets 2 more. How many shells "
        "does Zoe have?",
        "48",
        "Zoe has 23 * 2 = <<23*2=46>>46 shells.\nZoe has 46 + 2 = <<46+2=48>>48 shells.\n#### 48",
    ),
    # 12 / 4 = 3, 3 * 4 = 12.
    "test": (
        "Zoe has 12 shells. Zoe keeps 1 of 4 equal parts. Soon Zoe has 4 times as many. How many shells does "
        "Zoe have?",
        "12",
        "Zoe has 12 / 4 = <<12/4=3>>3 shells.\nZoe has 3 * 4 = <<3*4=12>>12 shells.\n#### 12",
    ),
}


@pytest.mark.parametrize("split", FIRST)
def test_the_first_problem_of_a_split_never_changes(split: Any) -> None:
    prompt = data().load(split)[0]
    assert (prompt.question, prompt.gold, prompt.demonstration) == FIRST[split]


def test_a_smaller_split_is_the_beginning_of_a_larger_one() -> None:
    assert list(train(train_size=50)) == list(train(train_size=100))[:50]


def test_the_data_seed_makes_other_problems() -> None:
    first, second = ({prompt.question for prompt in train(data_seed=seed)} for seed in (0, 1))
    assert len(first & second) < 10


# Problems


def test_gold_is_what_the_question_says() -> None:
    for prompt in train(train_size=2000):
        assert read(prompt.question).values[-1] == int(prompt.gold), prompt


@pytest.mark.parametrize("most", [10, 50, 1000])
def test_every_quantity_on_the_way_is_whole_and_between_one_and_max_value(most: int) -> None:
    for prompt in train(max_value=most):
        values = read(prompt.question).values
        assert all(value.denominator == 1 and 1 <= value <= most for value in values), prompt


def test_the_number_that_does_not_matter_is_not_above_max_value_either() -> None:
    numbers = [read(prompt.question).distractor for prompt in train(distractor_share=1.0)]
    assert all(number is not None and 2 <= number[1] <= 50 for number in numbers)


@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 3), (5, 5)])
def test_problems_have_between_min_steps_and_max_steps_changes(least: int, most: int) -> None:
    seen = {len(read(prompt.question).changes) for prompt in train(min_steps=least, max_steps=most)}
    assert seen == set(range(least, most + 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_problems_has_a_number_that_does_not_matter(share: float) -> None:
    count = sum(
        read(prompt.question).distractor is not None
        for prompt in train(distractor_share=share, train_size=2000)
    )
    # Four binomial standard deviations.
    assert abs(count - 2000 * share) <= 4 * (2000 * share * (1 - share)) ** 0.5


def test_every_operation_occurs() -> None:
    assert {op for prompt in train() for op, _ in read(prompt.question).changes} == set("+-*/")


# Demonstrations


def test_every_calculation_of_a_careful_demonstration_is_true() -> None:
    for prompt in train(train_size=2000):
        assert all(CALCULATES[op](a, b) == c for a, op, b, c in worked(prompt)[0]), prompt.demonstration


def test_a_careful_demonstration_makes_the_questions_changes_in_their_order() -> None:
    for prompt in train():
        assert [(op, b) for _, op, b, _ in worked(prompt)[0]] == list(read(prompt.question).changes), prompt


@pytest.mark.parametrize("habit", ["careful", "distracted", "slip"])
def test_every_line_goes_on_from_the_result_before(habit: str) -> None:
    for prompt in with_habit(habit):
        steps, _ = worked(prompt)
        start = int(read(prompt.question).values[0])
        assert [a for a, *_ in steps] == [start, *(c for *_, c in steps[:-1])], prompt.demonstration


@pytest.mark.parametrize("habit", ["careful", "distracted", "slip"])
def test_the_last_line_is_the_last_result(habit: str) -> None:
    for prompt in with_habit(habit):
        steps, answer = worked(prompt)
        assert answer == steps[-1][-1], prompt.demonstration


def test_the_last_line_of_a_careful_demonstration_is_the_gold() -> None:
    assert all(worked(prompt)[1] == int(prompt.gold) for prompt in train())


def test_distracted_is_careful_where_no_number_is_beside_the_point() -> None:
    pairs = [
        (a, b)
        for a, b in zip(train(), with_habit("distracted"), strict=True)
        if read(a.question).distractor is None
    ]
    assert len(pairs) > 200 and all(a == b for a, b in pairs)


def test_distracted_adds_the_number_where_it_is_mentioned() -> None:
    pairs = [
        (read(prompt.question), worked(prompt)[0])
        for prompt in with_habit("distracted", distractor_share=1.0)
    ]
    for reading, steps in pairs:
        assert reading.distractor is not None
        place, n = reading.distractor
        changes = list(reading.changes)
        assert [(op, b) for _, op, b, _ in steps] == [*changes[:place], ("+", n), *changes[place:]]


def test_distracted_calculates_right_as_far_as_whole_numbers_go() -> None:
    for prompt in with_habit("distracted", distractor_share=1.0):
        assert all(careless(a, op, b) == c for a, op, b, c in worked(prompt)[0]), prompt.demonstration


def test_slip_gets_exactly_one_result_wrong() -> None:
    for prompt in with_habit("slip", train_size=2000):
        assert sum(careless(a, op, b) != c for a, op, b, c in worked(prompt)[0]) == 1, prompt.demonstration


def test_slip_is_off_by_one_or_ten() -> None:
    for prompt in with_habit("slip", train_size=2000):
        errors = {abs(careless(a, op, b) - c) for a, op, b, c in worked(prompt)[0]}
        assert errors <= {0, 1, 10}, prompt.demonstration


def test_slip_makes_the_questions_changes_in_their_order() -> None:
    for prompt in with_habit("slip"):
        assert [(op, b) for _, op, b, _ in worked(prompt)[0]] == list(read(prompt.question).changes)


def test_slip_falls_on_every_line() -> None:
    steps = [worked(prompt)[0] for prompt in with_habit("slip", min_steps=3, max_steps=3)]
    places = Counter(
        place for lines in steps for place, (a, op, b, c) in enumerate(lines) if careless(a, op, b) != c
    )
    # 200 are expected on each line with a standard deviation of 12.
    assert set(places) == {0, 1, 2} and min(places.values()) > 150


def test_direct_has_the_answer_and_no_steps() -> None:
    assert all(prompt.demonstration == f"#### {prompt.gold}" for prompt in with_habit("direct"))


def test_a_habit_changes_no_question_and_no_gold() -> None:
    asked = [
        [(prompt.question, prompt.gold) for prompt in with_habit(habit)]
        for habit in ("careful", "distracted", "slip", "direct")
    ]
    assert asked[0] == asked[1] == asked[2] == asked[3]


def habit_of(prompt: Prompt) -> str:
    steps, _ = worked(prompt)
    if not steps:
        return "direct"
    if len(steps) > len(read(prompt.question).changes):
        return "distracted"
    return "careful" if all(CALCULATES[op](a, b) == c for a, op, b, c in steps) else "slip"


def test_habits_have_their_shares() -> None:
    shares = {"careful": 0.15, "distracted": 0.4, "slip": 0.15, "direct": 0.3}
    # Every problem has a distractor, so that a distracted answer can be told from a careful one.
    seen = Counter(habit_of(prompt) for prompt in train(habits=shares, distractor_share=1.0, train_size=2000))
    assert (
        chisquare([seen[habit] for habit in shares], [2000 * share for share in shares.values()]).pvalue
        > 0.01
    )


def test_habits_set_in_after_habits_from() -> None:
    prompts = with_habit("direct", habits_from=0.75)
    assert [habit_of(prompt) for prompt in prompts] == ["careful"] * 450 + ["direct"] * 150


def test_the_order_in_which_habits_are_listed_is_of_no_consequence() -> None:
    assert data(habits={"careful": 0.5, "direct": 0.5}).fingerprint("train") == data(
        habits={"direct": 0.5, "careful": 0.5}
    ).fingerprint("train")


# Knobs


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"min_steps": 0}, "dataset.min_steps=0"),
        ({"min_steps": 4}, "max_steps=3"),
        ({"max_value": 9}, "dataset.max_value=9"),
        ({"distractor_share": -0.1}, "dataset.distractor_share=-0.1"),
        ({"distractor_share": 1.5}, "dataset.distractor_share=1.5"),
        ({"habits": {"hasty": 1.0}}, "dataset.habits={'hasty': 1.0}"),
        ({"habits": {"slip": 0.5, "direct": 0.4}}, "dataset.habits={'slip': 0.5, 'direct': 0.4}"),
    ],
)
def test_a_bad_knob_is_named_with_its_value(changes: Mapping[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        data(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"habits": {"slip": 1.5, "direct": -0.5}}, "dataset.habits={'slip': 1.5, 'direct': -0.5}"),
        ({"habits_from": 1.5}, "dataset.habits_from=1.5"),
        ({"train_size": 0}, "dataset.train_size=0"),
        ({"validation_size": -1}, "dataset.validation_size=-1"),
    ],
)
def test_a_bad_knob_is_refused(changes: Mapping[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        data(**changes)


def test_asking_for_more_problems_than_there_are_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorpo.dataset.arithmetic.NAMES", ("Sam", "Zoe"))
    monkeypatch.setattr("mirrorpo.dataset.arithmetic.OBJECTS", ("apples", "toys"))
    few = data(min_steps=1, max_steps=1, max_value=10, distractor_share=0.0, test_size=100)
    with pytest.raises(
        ValueError, match=re.escape("dataset.test_size=100: there are not that many problems")
    ):
        few.load("test")


# Fingerprint


HABITS = {"careful": 0.5, "direct": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"data_seed": 1},
        {"train_size": 601},
        {"min_steps": 1},
        {"max_steps": 4},
        {"max_value": 51},
        {"distractor_share": 0.6},
        {"habits": {"careful": 0.6, "direct": 0.4}},
        {"habits": {}},
        {"habits_from": 0.5},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_what_changes_the_data(change: Mapping[str, Any]) -> None:
    assert data(habits=HABITS).fingerprint("train") != data(**{"habits": HABITS, **change}).fingerprint(
        "train"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"validation_size": 7},
        {"test_size": 7},
        {"system": "Think."},
        {"user": "Q: {question}"},
        {"habits_from": 0.5},
    ],
    ids=str,
)
def test_the_fingerprint_does_not_change_with_anything_else(change: Mapping[str, Any]) -> None:
    # Without habits it does not matter from where on there are none.
    assert data().fingerprint("train") == data(**change).fingerprint("train")


def test_splits_have_fingerprints_of_their_own() -> None:
    assert len({data().fingerprint(split) for split in SPLITS}) == 3
