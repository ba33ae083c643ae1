"""Which letter an answer names, in the forms in which models write it."""

import time

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.choice_letter import ChoiceLetter, letter_of, loose_letter

GOLD = Prompt(uid="q", question="", gold="B", demonstration="")
NAMES_B = [
    *(
        "B",
        "b",
        "(B)",
        "B)",
        "B.",
        "[B]",
        "**B**",
        "$B$",
        "B: blue",
        "B) blue",
        "(B) blue",
        "B - blue",
        "B, blue",
    ),
    *(
        r"\text{B}",
        r"\textbf{(B)}",
        r"\mathrm{B}",
        r"\text{(B) Vitamin C}",
        r"$\text{B}$",
        "Option B",
        " B\n",
    ),
    *("the answer is B", "Answer: (B)", "The correct answer is **B**.", "choice B"),
    *("B is correct", "B is the right one", "B because it is blue", "**Answer: B**", r"\text{B. }", "B ."),
]
NAMES_NONE = [
    *(
        "",
        "blue",
        "A dog",
        "I think so",
        "B or C",
        "A and B",
        "A, B",
        "A/B",
        "(A) or (B)",
        "B) or C)",
        "BC",
        "12",
    ),
]


def test_one_letter_in_any_dress_is_an_answer_and_several_are_none() -> None:
    assert not [text for text in NAMES_B if letter_of(text) != "B"]
    assert not [text for text in NAMES_NONE if letter_of(text) is not None]


def test_running_text_ends_up_naming_a_letter() -> None:
    named = [
        "So the answer is B.",
        "Answer: B",
        "(A) is red, so (B).",
        "Hence:\nB",
        "The answer is **B**",
        "A)\nB)",
    ]
    assert not [text for text in named if loose_letter(text) != "B"]
    assert [loose_letter(text) for text in ("A dog", "blue", "The answer is A's", "")] == [None] * 4


def test_what_is_marked_counts_and_what_is_thought_does_not() -> None:
    texts = [
        r"\boxed{B}",
        "#### B) blue",
        r"\boxed{A} no, \boxed{B}",
        r"<think>\boxed{B}</think> C",
        "It is (B)",
    ]
    strict, flexible = (
        ChoiceLetter(extraction=reading, thinking="skip") for reading in ("strict", "flexible")
    )  # type: ignore[arg-type]
    assert [verdict.outcome for verdict in strict(texts, [GOLD] * 5)] == ["right"] * 3 + ["no_answer"] * 2
    assert [verdict.correct for verdict in flexible(texts, [GOLD] * 5)] == [True] * 3 + [False, True]
    assert [v.flexible for v in strict(texts, [GOLD] * 5)] == [v.correct for v in flexible(texts, [GOLD] * 5)]
    assert ChoiceLetter(extraction="strict", thinking="read")([texts[3]], [GOLD])[0].reward == 1.0


def test_the_letter_is_what_votes() -> None:
    reward = ChoiceLetter(extraction="strict", thinking="skip")
    texts = [r"\boxed{B}", "#### (B)", r"\boxed{\text{A}}", "none of them"]
    assert [verdict.answer for verdict in reward(texts, [GOLD] * 4)] == ["B", "B", "A", ""]


def test_a_gold_that_is_no_letter_is_named() -> None:
    paris = Prompt(uid="p", question="", gold="Paris", demonstration="")
    reward = ChoiceLetter(extraction="strict", thinking="skip")
    assert (
        list(reward.unjudgeable([GOLD, paris])) == ["p"]
        and "dataset.choices" in reward.unjudgeable([paris])["p"]
    )


def test_hostile_answers_take_no_time() -> None:
    reward = ChoiceLetter(extraction="flexible", thinking="skip")
    used = time.process_time()
    for text in (
        "(" * 20000,
        "answer" + " " * 20000,
        "\n" * 20000,
        "((A" * 5000,
        r"\text{" * 4000,
        "answer is " * 2000,
    ):
        reward([text, rf"\boxed{{{text}}}"], [GOLD] * 2)
    assert time.process_time() - used < 1.0
