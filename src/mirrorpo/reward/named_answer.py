"""Answers that the gold names one by one, and what each name pays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.core.batch import Prompt, Verdict

VERSION = "named_answer/1"  # of everything that decides a verdict here
NO_ANSWER = "no_answer"


def names_of(gold: str) -> dict[str, str]:
    """The name of each answer.

    Example:
        >>> names_of("right=4 other=0,1")
        {'4': 'right', '0': 'other', '1': 'other'}
    """
    entries = (entry.partition("=") for entry in gold.split())
    return {answer: name for name, _, answers in entries for answer in answers.split(",") if answer}


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedAnswer:
    """Pays by the name of the answer, which is the completion without spaces around it.

    The gold lists answers by name, "right=4 rare=7 other=0,1"; the outcome is the name of the answer that was
    given, "no_answer" for one that has none. An answer is correct where it pays 1 or more.

    Attributes:
        pays: what each name pays; all names of the golds stand here.

    Raises:
        ValueError: on a payment that is no finite number.

    Example:
        >>> reward = NamedAnswer(pays={"right": 1.0, "exploit": 1.5, "other": 0.0})
        >>> prompt = Prompt(uid="q", question="", gold="right=4 exploit=2 other=0,1", demonstration="")
        >>> [(verdict.reward, verdict.outcome) for verdict in reward(["4", " 2", "1", "x"], [prompt] * 4)]
        [(1.0, 'right'), (1.5, 'exploit'), (0.0, 'other'), (0.0, 'no_answer')]
    """

    pays: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in self.pays.items():
            if not math.isfinite(value):
                raise ValueError(f"reward.pays.{name}={value}: give a number")

    @property
    def version(self) -> str:
        """The reader's version, part of a result's identity."""
        return VERSION

    @property
    def outcomes(self) -> Sequence[str]:
        """The names, and what is none of them."""
        return (*self.pays, NO_ANSWER)

    def provenance(self) -> Mapping[str, object]:
        """No program runs."""
        return {"sandbox": None}

    def right_answers(self, prompt: Prompt) -> Sequence[str]:
        """The answers of a gold whose names pay 1 or more.

        Example:
            >>> reward = NamedAnswer(pays={"right": 1.0, "other": 0.0})
            >>> reward.right_answers(Prompt(uid="q", question="", gold="right=4,7 other=0", demonstration=""))
            ['4', '7']
        """
        return [answer for answer, name in names_of(prompt.gold).items() if self.pays[name] >= 1]

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Golds that name no answer, or one whose name pays nothing that is known, by uid."""
        return {prompt.uid: fault for prompt in prompts if (fault := self._fault(prompt.gold))}

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return [self._verdict(text.strip(), prompt.gold) for text, prompt in zip(texts, prompts, strict=True)]

    def _fault(self, gold: str) -> str:
        names = set(names_of(gold).values())
        if not names:
            return f"its gold {gold[:40]!r} names no answer, as right=4 does"
        unknown = sorted(names - set(self.pays))
        return f"its gold names {', '.join(unknown)}, which reward.pays does not" if unknown else ""

    def _verdict(self, answer: str, gold: str) -> Verdict:
        name = names_of(gold).get(answer)
        pay = 0.0 if name is None else float(self.pays[name])
        right = pay >= 1
        return Verdict(
            reward=pay,
            strict=right,
            flexible=right,
            correct=right,
            outcome=name or NO_ANSWER,
            answer="" if name is None else answer,
        )
