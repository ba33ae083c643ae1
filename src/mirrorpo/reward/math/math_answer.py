r"""Maths answers: extraction from a completion and exact comparison with the gold.

Two extractions are always reported. *Strict* reads the answer a completion marks as final
(`text.answer_marker`): the rest of the line after the last `####`, or the last closed `\boxed{}`,
whichever starts later. *Flexible* reads the last number of the text; it rewards
rambling, so train on it knowingly.

When the gold is a plain number (`number.py`) the answer has to be one too, and both are compared as
fractions, exactly and in this process. `12+7` is not the answer 19, nor is `38/2`: a symbolic comparison
would pay for copying the question. Every other gold (`gold.py`) is compared as a text where that decides, and
goes to the workers of `verifier.py` where it does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.protocols import Assembly
from mirrorpo.reward.math.comparison import Comparison
from mirrorpo.reward.math.gold import Gold, answer_form, latex_form, read_gold
from mirrorpo.reward.math.number import (
    DecimalMark,
    equation_number,
    first_number,
    last_number,
    plain_number,
    value,
)
from mirrorpo.reward.math.verifier import shared_pool
from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.text.thinking import Thinking, behind_thinking

VERSION = "math_answer/2"  # of everything that decides a verdict here; results of two versions do not compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a completion answers.

    Attributes:
        text: as written.
        number: its value, where it states one number.
    """

    text: str
    number: Fraction | None


def strict_answer(
    text: str, thinking: Thinking = "skip", decimal_mark: DecimalMark = "point"
) -> Answer | None:
    r"""The answer the completion marks last, by `####` or `\boxed{}`; None without one.

    Only exactly four hashes are a mark. The line after them may be a sentence, whose first number
    is then the answer ("#### 18 in 2 days"); the content of a box may not. Of an equation the last
    right-hand side is the answer.

    Example:
        >>> strict_answer("#### 17\n#### 18 in 2 days").number, strict_answer(r"\boxed{x = 5}").number
        (Fraction(18, 1), Fraction(5, 1))
        >>> strict_answer("#### 18\n####") is None
        True
    """
    answer = marked_answer(text, thinking)
    marked = "" if answer is None else text[answer.opens : answer.closes]
    if answer is None or not marked.strip():
        return None
    number = plain_number(marked, decimal_mark)
    if number is None:
        number = equation_number(marked, decimal_mark)
    if number is None and answer.mark == "hashes":
        number = first_number(marked, decimal_mark)
    return Answer(text=marked.strip(), number=number)


def flexible_answer(
    text: str, thinking: Thinking = "skip", decimal_mark: DecimalMark = "point"
) -> Answer | None:
    """The last number of the text, wherever it stands; None when there is none or it cannot be read.

    Example:
        >>> flexible_answer("It costs $5, so 3 of them cost $15.00, of course.").number
        Fraction(15, 1)
        >>> flexible_answer("no, nothing") is None
        True
    """
    if thinking == "skip":
        start, end = behind_thinking(text)
        text = text[start:end]
    last = last_number(text, decimal_mark)
    number = None if last is None else value(last)
    return None if last is None or number is None else Answer(text=last[0], number=number)


@dataclass(frozen=True, kw_only=True, slots=True)
class MathAnswer:
    r"""Reward 1 for the right answer by the trained extraction, 0 otherwise, NaN when nobody can say.

    Outcomes: "right"; "wrong", also where the comparison does not end; "no_answer", where the trained
    extraction finds nothing; "unverifiable", where the verifier itself failed. An extraction that could not
    be verified is reported as False.

    A gold that is no plain number is LaTeX, and math-verify compares decimals with it to six places.

    Attributes:
        extraction: which of the two extractions is trained on; both are always reported.
        thinking: "skip": what stands in `<think>` is no answer; "read": it is read like the rest.
        decimal_mark: "point"; or "comma", which reads 1.000,50 in answers. Golds have points.
        latex_timeout_s: seconds of processor time that a LaTeX comparison may take, > 0.
        latex_workers: processes that compare LaTeX, >= 1; none starts before a gold needs it.

    Raises:
        ValueError: on a knob out of range, and when called, on a gold that cannot be read.

    Example:
        >>> reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
        >>> prompt = Prompt(uid="q1", question="", gold="1,000", demonstration="")
        >>> reward(["#### 1000.00 dollars", "It is 1000"], [prompt, prompt])
        ... # doctest: +NORMALIZE_WHITESPACE
        [Verdict(reward=1.0, strict=True, flexible=True, correct=True, outcome='right', parts={}, gold=None,
                 answer='1000'),
         Verdict(reward=0.0, strict=False, flexible=True, correct=False, outcome='no_answer', parts={},
                 gold=None, answer='')]
    """

    extraction: Literal["strict", "flexible"]
    thinking: Thinking = "skip"
    decimal_mark: DecimalMark = "point"
    latex_timeout_s: float
    latex_workers: int

    def __post_init__(self) -> None:
        choices = {
            "extraction": (self.extraction, ("strict", "flexible")),
            "thinking": (self.thinking, ("skip", "read")),
            "decimal_mark": (self.decimal_mark, ("point", "comma")),
        }
        for name, (chosen, known) in choices.items():
            if chosen not in known:
                raise ValueError(f"reward.{name}={chosen!r} is unknown; use {' or '.join(known)}")
        if not self.latex_timeout_s > 0:
            raise ValueError(f"reward.latex_timeout_s={self.latex_timeout_s} must be positive; try 5.0")
        if self.latex_workers < 1:
            raise ValueError(f"reward.latex_workers={self.latex_workers} must be at least 1")

    @property
    def version(self) -> str:
        """The extractor's version, part of a result's identity."""
        return VERSION

    def provenance(self) -> dict[str, object]:
        """What the manifest says beside the version: answers run no program, so nothing keeps one in."""
        return {"sandbox": None}

    def notes(self, group: str, assembly: Assembly) -> Iterator[str]:
        """That credit leaves thinking aside where the reward reads it."""
        if self.thinking == "read":
            yield (
                f"{group}.thinking=read: an answer in a model's thinking counts; weightings by spans still "
                "take the answer behind it, and leave a completion without one as it is"
            )

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Golds that are neither numbers nor LaTeX that equals itself, by uid with the reason."""
        golds = {prompt.uid: read_gold(prompt.gold) for prompt in prompts}
        comparisons = self._verify(
            list({(gold.latex, gold.latex): None for gold in golds.values() if gold.latex})
        )
        faults = {uid: _fault(gold, comparisons) for uid, gold in golds.items()}
        return {uid: fault for uid, fault in faults.items() if fault}

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        golds = [read_gold(prompt.gold) for prompt in prompts]
        answers = [self._answers(text) for text in texts]
        pairs: dict[tuple[str, str], None] = {}  # a set in order: completions of a group often agree
        for gold, both in zip(golds, answers, strict=True):
            if gold.latex:
                # The empty answer has the gold itself checked, whatever the model wrote.
                forms = [
                    "",
                    *(latex_form(a.text) for a in both if a is not None and gold.compare(a.text) is None),
                ]
                pairs |= {(gold.latex, form): None for form in forms}
        comparisons = self._verify(list(pairs))
        for gold, prompt in zip(golds, prompts, strict=True):
            if gold.fault or comparisons.get((gold.latex, "")) == "bad_gold":
                raise ValueError(
                    f"gold {prompt.gold!r} of {prompt.uid!r} is neither a number nor LaTeX; correct the "
                    "dataset"
                )
        return [self._verdict(gold, both, comparisons) for gold, both in zip(golds, answers, strict=True)]

    def _answers(self, text: str) -> tuple[Answer | None, Answer | None]:
        return (
            strict_answer(text, self.thinking, self.decimal_mark),
            flexible_answer(text, self.thinking, self.decimal_mark),
        )

    def _verify(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Comparison]:
        if not pairs:
            return {}
        pool = shared_pool(self.latex_workers, self.latex_timeout_s)
        return dict(zip(pairs, pool(pairs), strict=True))

    def _verdict(
        self,
        gold: Gold,
        answers: tuple[Answer | None, Answer | None],
        comparisons: Mapping[tuple[str, str], Comparison],
    ) -> Verdict:
        strict, flexible = (_outcome(gold, answer, comparisons) for answer in answers)
        outcome, answer = (strict, answers[0]) if self.extraction == "strict" else (flexible, answers[1])
        reward = {"right": 1.0, "unverifiable": float("nan")}.get(outcome, 0.0)
        return Verdict(
            reward=reward,
            strict=strict == "right",
            flexible=flexible == "right",
            correct=outcome == "right",
            outcome=outcome,
            answer=_normal_form(answer),
        )


def _outcome(gold: Gold, answer: Answer | None, comparisons: Mapping[tuple[str, str], Comparison]) -> str:
    if answer is None:
        return "no_answer"
    if gold.number is not None:
        return "right" if answer.number == gold.number else "wrong"
    return gold.compare(answer.text) or comparisons[gold.latex, latex_form(answer.text)]


def _normal_form(answer: Answer | None) -> str:
    # What is compared, as a text.
    if answer is None:
        return ""
    return answer_form(answer.text) if answer.number is None else str(answer.number)


def _fault(gold: Gold, comparisons: Mapping[tuple[str, str], Comparison]) -> str:
    if gold.fault or not gold.latex:
        return gold.fault
    return {
        "right": "",
        "bad_gold": f"its gold {gold.latex[:80]!r} is neither a number nor LaTeX that can be read",
        "wrong": f"its gold {gold.latex[:80]!r} is not equal to itself, or takes too long to be compared",
        "unverifiable": f"the verifier failed on its gold {gold.latex[:80]!r}",
    }[comparisons[gold.latex, gold.latex]]
