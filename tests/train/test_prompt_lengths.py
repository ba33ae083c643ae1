"""Of many training prompts only those are tokenised that could be too long for the model."""

from types import SimpleNamespace
from typing import cast

import pytest

from mirrorpo.core.batch import Prompt
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prompt import Rendered
from mirrorpo.train.prompt_lengths import to_measure

CONTEXT, ANSWER = 1000, 300


def policy(unk: int | None) -> LanguageModel:
    """A model of 1,000 positions."""

    def check_context(tokens: int) -> None:
        if tokens > CONTEXT:
            raise ValueError(tokens)

    tokenizer = SimpleNamespace(unk_token_id=unk)
    return cast("LanguageModel", SimpleNamespace(tokenizer=tokenizer, check_context=check_context))


def prompts(*questions: str) -> list[Prompt]:
    """Prompts of these questions."""
    return [Prompt(uid=text[:4], question=text, gold="", demonstration="") for text in questions]


def rendered(user: str, question: str) -> Rendered:
    """A byte a token, as no tokenizer has more of."""
    text = user.replace("{question}", question)
    return Rendered(text=text, ids=list(text.encode()))


@pytest.mark.parametrize("user", ["{question}", "Say {question}, I mean {question}!", "Ärger: {question}"])
def test_no_prompt_that_is_too_long_is_passed_over(user: str) -> None:
    few = prompts("seven", *("x" * count for count in range(1, 800)), "\ufdfa" * 30, "é" * 300)
    example = rendered(user, few[0].question)
    measured = to_measure(policy(None), few, example, user, ANSWER)
    long = [p for p in few if len(rendered(user, p.question).ids) + ANSWER > CONTEXT]
    assert all(p in measured for p in long)
    # A character that a tokenizer rewrites as many counts as many.
    assert few[-2] in measured
    assert few[0] not in measured and few[1] not in measured


def test_a_tokenizer_that_may_not_know_a_word_reads_every_prompt() -> None:
    few = prompts("seven", "eight")
    example = rendered("{question}", "seven")
    assert to_measure(policy(2), few, example, "{question}", ANSWER) == few
    assert to_measure(policy(None), few, example, "{question}", ANSWER) == []
    assert to_measure(policy(None), [], example, "{question}", ANSWER) == []
