r"""Maths answers: extraction from a completion and exact comparison with the gold.

Two extractions are always reported. *Strict* reads the answer a completion marks as final
(`text.answer_marker`): the rest of the line after the last `####`, or the last closed `\boxed{}`,
whichever starts later. *Flexible* reads the last number of the text; it rewards
rambling, so train on it knowingly.

When the gold is a plain number the answer has to be one too, and both are compared as fractions,
exactly and in this process. `12+7` is not the answer 19, nor is `38/2`: a symbolic comparison would
pay for copying the question. Every other gold goes to math-verify in `verifier.py`.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.reward.math.comparison import Comparison
from mirrorpo.reward.math.verifier import shared_pool
from mirrorpo.text.answer_marker import marked_answer

VERSION = "math_answer/1"  # of everything that decides a verdict here; results of two versions do not compare

LONGEST_NUMBER = 400  # characters; int() is quadratic and refuses more than 4300 digits
LARGEST_EXPONENT = 1000  # 1e999999999 would fill the memory
LONGEST_LATEX = 1000  # characters; a longer answer is wrong, and is not worth a worker's time

_CURRENCY = "(?:\\\\?\\$|[\u20ac\u00a3\u00a5\u20b9])"
# 1,000  1{,}000  1,\!000  1\,000 and thin spaces; groups are of exactly three, so that 1,2,3 stays a list.
_GROUP = "(?:(?:\\{,\\}|,\\\\!|\\\\[,!;: ]|[,\u2009\u202f])[0-9]{3}(?![0-9]))"
_INTEGER = f"(?:[0-9]{{1,3}}(?![0-9]){_GROUP}++|[0-9]++)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]++)?+|(?<![0-9])\.[0-9]++)"
_ARGUMENT = rf"(?:\s?\{{\s?[-+]?{_DECIMAL}\s?\}}|\s?[0-9])"
_UNSIGNED = (
    rf"(?:(?:(?P<whole>{_INTEGER})\s?+)?+\\[dtc]?frac(?P<over>{_ARGUMENT})(?P<under>{_ARGUMENT})"
    rf"|(?P<count>[0-9]++)[ ](?P<part>[0-9]++/[0-9]++)"
    rf"|(?P<decimal>{_DECIMAL})"
    rf"(?:[eE](?P<e>[-+]?[0-9]++)|\s?(?:\\times|\\cdot|[*\u00d7\u00b7])\s?10\^\{{?(?P<tens>[-+]?[0-9]++)\}}?)?+"
    rf"(?:\s?/\s?(?P<divisor>{_DECIMAL}))?+)"
)
# In running text a sign belongs to the number unless it follows an operand (10-5) or a dash, and a sign
# with a space after it is a bullet or an operator.
_IN_TEXT = re.compile(rf"(?P<head>(?<![0-9A-Za-z)\]}}-])[-+]{_CURRENCY}?|{_CURRENCY}[-+]?)?{_UNSIGNED}")

_OPENING = r"(?:[\s*_`{$]|\\[(\[])*+"
_HEAD = rf"(?P<head>[-+]\s?(?:{_CURRENCY}\s?)?|{_CURRENCY}\s?[-+]?)?"
# Short words are algebra (5 xy) unless they are known units; long ones are units unless they are functions.
_SIZES = "hundred|thousand|million|billion|trillion|dozen|squared|cubed|factorial"
_UNIT = (
    r"\\(?:text|textbf|textrm|mathrm|mbox)\s?(?!\{[ei]\})\{[^{}0-9]*+\}(?:\^\{?[0-9]\}?)?"
    r"|(?:(?<=[\s~])|(?<=[0-9]))(?:km|cm|mm|kg|mg|ml|lbs?|oz|ft|in|hrs?|mph|am|pm)(?![A-Za-z])"
    "(?:\\^\\{?[23]\\}?|[\u00b2\u00b3])?"
    rf"|(?<=[\s~])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|mod|and|sqrt|{_SIZES})\b)[A-Za-z]{{3,}}+(?:/[A-Za-z]++)?"
)
_CLOSING = (
    rf"(?:[\s~*_`}}$%.,;:\u20ac\u00a3\u00a5\u20b9]|\\[$%)\],!;: ]|\^\{{?\\circ\}}?|\u00b0[CF]?|{_UNIT})*+"
)
_ALONE = re.compile(_OPENING + _HEAD + _UNSIGNED + _CLOSING)
_RELATION = re.compile(r"(?<![<>!])=")
# Beside an operator the first number of a line is an operand, not the answer; 18/day and "18 - a lot" are
# prose.
_OPERATORS = "-+*/^_{\u00d7\u00b7\u00f7\u221a"
_OPERATES = re.compile(
    "\\s*(?:[-+*/\u00d7\u00b7\u00f7]\\s*[0-9(\\\\$]|[\\^\u221a]|sqrt|\\\\(?!text|[$%)\\]])|(?:"
    + _SIZES
    + r")\b)|[(_{!]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a completion answers.

    Attributes:
        text: as written.
        number: its value, where it states one number.
    """

    text: str
    number: Fraction | None


def plain_number(text: str) -> Fraction | None:
    r"""The exact value of a text that is one number and nothing but a sign, currency or unit around it.

    Thousands separators need groups of three. Percent signs are ignored, as GSM8K's golds do
    ("50%" is 50). A whole number beside a proper fraction is a mixed number. An integer written as a
    quotient (38/2) is arithmetic left undone, hence no number.

    Example:
        >>> plain_number("-$1,000.50"), plain_number(r"2\frac{1}{4} \text{ cm}"), plain_number("6.0e-1")
        (Fraction(-2001, 2), Fraction(9, 4), Fraction(3, 5))
        >>> plain_number("1,2,3"), plain_number("12+7"), plain_number("3x"), plain_number("1e999999999")
        (None, None, None, None)
    """
    match = _ALONE.fullmatch(text.replace("\u2212", "-"))
    return _value(match) if match else None


def strict_answer(text: str) -> Answer | None:
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
    text = text.replace("\u2212", "-")
    answer = marked_answer(text)
    marked = "" if answer is None else text[answer.opens : answer.closes]
    if answer is None or not marked.strip():
        return None
    number = plain_number(marked)
    if number is None and _RELATION.search(marked):
        number = plain_number(_RELATION.split(marked)[-1])
    if number is None and answer.mark == "hashes":
        number = _first_number(marked)
    return Answer(text=marked.strip(), number=number)


def _first_number(line: str) -> Fraction | None:
    line = line.replace("**", "")
    match = _IN_TEXT.search(line)
    if (
        match is None
        or line[: match.start()].rstrip().endswith(tuple(_OPERATORS))
        or _OPERATES.match(line, match.end())
    ):
        return None
    return _value(match)


def flexible_answer(text: str) -> Answer | None:
    """The last number of the text, wherever it stands; None when there is none or it cannot be read.

    Example:
        >>> flexible_answer("It costs $5, so 3 of them cost $15.00, of course.").number
        Fraction(15, 1)
        >>> flexible_answer("no, nothing") is None
        True
    """
    last = deque(_IN_TEXT.finditer(text.replace("\u2212", "-")), maxlen=1)
    number = _value(last[0]) if last else None
    return None if number is None else Answer(text=last[0][0], number=number)


@dataclass(frozen=True, kw_only=True, slots=True)
class MathAnswer:
    r"""Reward 1 for the right answer by the trained extraction, 0 otherwise, NaN when nobody can say.

    Outcomes: "right"; "wrong"; "no_answer", where the trained extraction finds nothing;
    "unverifiable", where math-verify was killed for time or crashed. An extraction that could not
    be verified is reported as False.

    A gold that is no plain number is LaTeX, and math-verify compares decimals with it to six places.

    Attributes:
        extraction: which of the two extractions is trained on; both are always reported.
        latex_timeout_s: seconds a LaTeX comparison may take before its worker is killed, > 0.
        latex_workers: processes that compare LaTeX, >= 1; none starts before a gold needs it.

    Raises:
        ValueError: on a knob out of range, and when called, on a gold that cannot be read.

    Example:
        >>> reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
        >>> prompt = Prompt(uid="q1", question="", gold="1,000", demonstration="")
        >>> reward(["#### 1000.00 dollars", "It is 1000"], [prompt, prompt])
        ... # doctest: +NORMALIZE_WHITESPACE
        [Verdict(reward=1.0, strict=True, flexible=True, correct=True, outcome='right'),
         Verdict(reward=0.0, strict=False, flexible=True, correct=False, outcome='no_answer')]
    """

    extraction: Literal["strict", "flexible"]
    latex_timeout_s: float
    latex_workers: int

    def __post_init__(self) -> None:
        if self.extraction not in ("strict", "flexible"):
            raise ValueError(f"reward.extraction={self.extraction!r} is unknown; use strict or flexible")
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

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """None; a gold that cannot be read stops the run when it is first compared."""
        return {}

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        golds = [_gold(prompt) for prompt in prompts]
        answers = [(strict_answer(text), flexible_answer(text)) for text in texts]
        pairs: dict[tuple[str, str], None] = {}  # a set in order: completions of a group often agree
        for gold, both in zip(golds, answers, strict=True):
            if isinstance(gold, str):
                # The empty answer has the gold itself checked, whatever the model wrote.
                texts_for_gold = ["", *(answer.text for answer in both if answer is not None)]
                pairs |= {(gold, text): None for text in texts_for_gold if len(text) <= LONGEST_LATEX}
        comparisons = self._verify(list(pairs))
        for gold, prompt in zip(golds, prompts, strict=True):
            if isinstance(gold, str) and comparisons[gold, ""] == "bad_gold":
                raise _unreadable(prompt)
        return [
            self._verdict(*(_outcome(gold, answer, comparisons) for answer in both))
            for gold, both in zip(golds, answers, strict=True)
        ]

    def _verify(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Comparison]:
        if not pairs:
            return {}
        pool = shared_pool(self.latex_workers, self.latex_timeout_s)
        return dict(zip(pairs, pool(pairs), strict=True))

    def _verdict(self, strict: str, flexible: str) -> Verdict:
        outcome = strict if self.extraction == "strict" else flexible
        reward = {"right": 1.0, "unverifiable": float("nan")}.get(outcome, 0.0)
        return Verdict(
            reward=reward,
            strict=strict == "right",
            flexible=flexible == "right",
            correct=outcome == "right",
            outcome=outcome,
        )


def _outcome(
    gold: Fraction | str, answer: Answer | None, comparisons: Mapping[tuple[str, str], Comparison]
) -> str:
    if answer is None:
        return "no_answer"
    if isinstance(gold, Fraction):
        return "right" if answer.number == gold else "wrong"
    return comparisons.get((gold, answer.text), "wrong")


def _gold(prompt: Prompt) -> Fraction | str:
    number = plain_number(prompt.gold)
    if number is not None:
        return number
    # math-verify would read a missing value as the product n*a*n.
    if prompt.gold.strip().lower() in ("", "nan", "none", "null", "n/a"):
        raise _unreadable(prompt)
    return prompt.gold.strip()


def _unreadable(prompt: Prompt) -> ValueError:
    return ValueError(
        f"gold {prompt.gold!r} of {prompt.uid!r} is neither a number nor LaTeX; correct the dataset"
    )


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > LONGEST_NUMBER:
        return None
    if match["decimal"]:
        value = _decimal(match["decimal"])
        exponent = int(match["e"] or match["tens"] or 0)
        if abs(exponent) > LARGEST_EXPONENT:
            return None
        value = _ratio(value * Fraction(10) ** exponent, match["divisor"])
    elif match["part"]:
        over, under = match["part"].split("/")
        value = _mixed(match["count"], _ratio(_decimal(over), under))
    else:
        value = _mixed(match["whole"], _ratio(_decimal(match["over"]), match["under"]))
    return -value if value is not None and "-" in (match["head"] or "") else value


def _decimal(text: str) -> Fraction:
    value = Fraction(re.sub(r"[^0-9.]", "", text))
    return -value if "-" in text else value


def _ratio(value: Fraction, divisor: str | None) -> Fraction | None:
    if divisor is None:
        return value
    under = _decimal(divisor)
    if under == 0 or (value / under).denominator == 1:
        return None
    return value / under


def _mixed(whole: str | None, part: Fraction | None) -> Fraction | None:
    if whole is None or part is None:
        return part
    return _decimal(whole) + part if 0 < part < 1 else None
