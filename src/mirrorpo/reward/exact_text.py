r"""Short texts: an answer is right where it reads like the gold, whatever its case, spaces and full stops."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.text.thinking import Thinking, behind_thinking

VERSION = "exact_text/1"  # of everything that decides a verdict here
_AROUND = " \t\n.,;:!?\"'`*_\u201c\u201d\u2018\u2019"


def reading(text: str) -> str:
    """How a text reads: one Unicode form, no case, single spaces, no quotes or punctuation around it.

    >>> reading(" **Positive**.") == reading("positive"), reading("a  b") == reading("A b")
    (True, True)
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactText:
    r"""Reward 1 where the answer reads like the gold, 0 otherwise.

    Strict: the marked answer (`####`, `\boxed{}`), or all of a completion that marks none. Flexible: the gold
    stands somewhere in the completion, which rewards listing; train on it knowingly.

    Attributes:
        extraction: which of the two is trained on; both are always reported.
        thinking: "skip": what stands in `<think>` is no answer; "read": it is read like the rest.

    Example:
        >>> reward = ExactText(extraction="strict", thinking="skip")
        >>> prompt = Prompt(uid="q", question="", gold="New York", demonstration="")
        >>> [v.correct for v in reward(["new york.", "#### New York", "It is New York"], [prompt] * 3)]
        [True, True, False]
    """

    extraction: Literal["strict", "flexible"]
    thinking: Thinking

    @property
    def version(self) -> str:
        """The reader's version, part of a result's identity."""
        return VERSION

    def provenance(self) -> Mapping[str, object]:
        """No program runs."""
        return {"sandbox": None}

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Golds of which nothing is left to compare, by uid."""
        return {p.uid: f"its gold {p.gold[:40]!r} has no words" for p in prompts if not reading(p.gold)}

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return [self._verdict(text, reading(p.gold)) for text, p in zip(texts, prompts, strict=True)]

    def _verdict(self, text: str, gold: str) -> Verdict:
        start, end = behind_thinking(text) if self.thinking == "skip" else (0, len(text))
        marked = marked_answer(text, self.thinking)
        answer = reading(text[start:end] if marked is None else text[marked.opens : marked.closes])
        strict = answer == gold
        flexible = strict or f" {_by_word(gold)} " in f" {_by_word(text[start:end])} "
        correct = strict if self.extraction == "strict" else flexible
        return Verdict(
            reward=float(correct),
            strict=strict,
            flexible=flexible,
            correct=correct,
            outcome="right" if correct else "wrong" if answer else "no_answer",
            # A text that holds the gold somewhere is no answer that could be counted.
            answer=answer if self.extraction == "strict" else None,
        )


def _by_word(text: str) -> str:
    return " ".join(map(reading, text.split()))
