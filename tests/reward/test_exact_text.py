"""Short texts are compared by how they read."""

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.exact_text import ExactText

GOLD = Prompt(uid="q", question="", gold="New York", demonstration="")


def test_case_spaces_and_punctuation_around_a_text_do_not_matter_and_words_do() -> None:
    reward = ExactText(extraction="strict", thinking="skip")
    right = [
        "New York",
        " new  york.\n",
        "**New York**",
        '"New York"',
        "#### new york",
        r"So \boxed{New York}.",
    ]
    right.append("<think>London?</think>\nNew York")
    wrong = [
        "York",
        "New York City",
        "It is New York",
        r"New York \boxed{London}",
        "<think>New York</think> York",
    ]
    assert [verdict.reward for verdict in reward([*right, *wrong], [GOLD] * 12)] == [1.0] * 7 + [0.0] * 5
    verdicts = reward(["", "York.", "#### york"], [GOLD] * 3)
    assert [v.outcome for v in verdicts] == ["no_answer", "wrong", "wrong"]
    assert [v.answer for v in verdicts] == ["", "york", "york"]


def test_flexible_finds_the_words_in_the_text() -> None:
    reward = ExactText(extraction="flexible", thinking="skip")
    texts = ["It is New York, sure.", "It is Newer York", "new-york"]
    verdicts = reward(texts, [GOLD] * 3)
    assert [verdict.correct for verdict in verdicts] == [True, False, False]
    assert {verdict.answer for verdict in verdicts} == {None}
    dots = Prompt(uid="d", question="", gold=" ... ", demonstration="")
    assert list(reward.unjudgeable([GOLD, dots])) == ["d"]
