r"""Multiple choice: the letter that a completion answers, against the gold's.

Strict reads the answer that a completion marks (`text.answer_marker`). Flexible reads, where nothing is
marked, the last letter that follows "answer is", or stands in parentheses or alone on a line.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.patterns import compiled
from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.text.thinking import Thinking, behind_thinking

VERSION = "choice_letter/1"  # of everything that decides a verdict here
LONGEST = 500  # characters of an answer that may be a letter

_DRESS = r"[\s$*_`\"'({\[]*+(?:\\(?:text|textbf|mathbf|mathrm|mathsf|boxed|bf|rm)\s*+\{[\s({*]*+)*+"
_LETTER = compiled(
    rf"{_DRESS}(?:the\s+)?(?:(?:correct|right|final|best)\s+)?(?:(?:answer|option|choice|letter)\s*+(?:is\b|:)?+\s*+)?{_DRESS}"
    r"(?P<letter>[A-Za-z])(?P<rest>[\s$*_`\"'}\])]*(?:(?:[.:,;)\-\u2013=\n]|(?:because|since)\b|is\s+(?:the\s+)?(?:correct|right|answer)\b).*)?)",
    re.IGNORECASE | re.DOTALL,
)
# Another letter named as an answer: "B or C", "B, C", "B) or C)".
_ANOTHER = compiled(
    r"\b(?:or|and)\s+\(?[A-Z]\b\)?\s*[.}$]?\s*$|^[\s)*]*[,/&]\s*\(?[A-Z]\b|\([A-Z]\)|\s[A-Z]\)"
)
_NAMED = compiled(
    r"\b(?i:answer|option|choice)(?:[ \t]is)?[ \t]?:?[ \t]?[*(\[$]{0,3}(?P<named>[A-Z])\b(?!['\u2019])"
    r"|\((?P<closed>[A-Z])\)|^[ \t*]*(?P<alone>[A-Z])[.) \t*]*$",
    re.MULTILINE,
)


def letter_of(text: str) -> str | None:
    r"""The one letter that an answer names, as a capital; None where it names none, or several.

    Example:
        >>> letter_of("B"), letter_of("(b)."), letter_of(r"\text{B) blue}"), letter_of("**C**: 12")
        ('B', 'B', 'B', 'C')
        >>> letter_of("blue"), letter_of("B or C"), letter_of("A dog")
        (None, None, None)
    """
    match = None if len(text) > LONGEST else _LETTER.fullmatch(text.strip())
    if match is None or _ANOTHER.search(match["rest"]):
        return None
    return match["letter"].upper()


def loose_letter(text: str) -> str | None:
    """The letter that running text ends up naming; None where it names none.

    >>> loose_letter("It is blue, so the answer is (B)."), loose_letter("A dog. Blue.")
    ('B', None)
    """
    last = None
    for match in _NAMED.finditer(text):
        last = match["named"] or match["closed"] or match["alone"]
    return last


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceLetter:
    """Reward 1 for the gold's letter by the trained extraction, 0 otherwise.

    Outcomes: "right", "wrong", "no_answer". Golds are single letters, as `dataset.choices` makes them.

    Attributes:
        extraction: which of the two readings is trained on; both are always reported.
        thinking: "skip": what stands in `<think>` is no answer; "read": it is read like the rest.

    Example:
        >>> reward = ChoiceLetter(extraction="strict", thinking="skip")
        >>> prompt = Prompt(uid="q", question="", gold="B", demonstration="")
        >>> [(v.reward, v.flexible, v.outcome) for v in reward(["#### (B)", "It is (B)"], [prompt] * 2)]
        [(1.0, True, 'right'), (0.0, True, 'no_answer')]
    """

    extraction: Literal["strict", "flexible"]
    thinking: Thinking

    @property
    def version(self) -> str:
        """The extractor's version, part of a result's identity."""
        return VERSION

    def provenance(self) -> Mapping[str, object]:
        """No program runs."""
        return {"sandbox": None}

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Golds that are no letter, by uid."""
        return {
            prompt.uid: f"its gold {prompt.gold[:40]!r} is no letter; set dataset.choices, or another reward"
            for prompt in prompts
            if not re.fullmatch("[A-Z]", prompt.gold)
        }

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return [self._verdict(text, prompt.gold) for text, prompt in zip(texts, prompts, strict=True)]

    def _verdict(self, text: str, gold: str) -> Verdict:
        marked = marked_answer(text, self.thinking)
        strict = None if marked is None else letter_of(text[marked.opens : marked.closes])
        start, end = behind_thinking(text) if self.thinking == "skip" else (0, len(text))
        flexible = loose_letter(text[start:end]) if marked is None else strict
        trained = strict if self.extraction == "strict" else flexible
        correct = trained == gold
        return Verdict(
            reward=float(correct),
            strict=strict == gold,
            flexible=flexible == gold,
            correct=correct,
            outcome="no_answer" if trained is None else "right" if correct else "wrong",
            answer=trained or "",
        )
