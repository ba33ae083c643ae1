r"""The right answer as the dataset gives it, and what can be said of an answer without a worker.

A gold is a number, words (a name, a letter, a time of day), a number in a base other than ten, or LaTeX.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from mirrorpo.core.patterns import compiled
from mirrorpo.reward.math.normal_form import CONSTANT, plain_latex, plain_text, unwrapped
from mirrorpo.reward.math.number import plain_number

LONGEST_GOLD = 4000  # characters
LONGEST_LATEX = 1000  # characters; a longer answer is wrong, and is not worth a worker's time
DEEPEST = 25  # braces and parentheses within each other
HIGHEST = 4  # exponents of exponents

# math-verify would read a missing value as the product n*a*n.
_MISSING = ("", "nan", "none", "null", "n/a")
_FULL_STOP = compiled(r"(?<=[0-9])\.(?=\s*[-/*+)\\}])")
_LEFT_UNDONE = compiled(r"\\(?:i{0,3}nt|oint|sum|prod|lim)(?![A-Za-z])")
_BASED = compiled(r"(?P<digits>[0-9A-Fa-f]+)_\{?(?:\\text\{\s*)?(?P<base>[0-9]+|[a-z]+)\s*\}{0,2}")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8"}
_BASES |= {"nine": "9", "ten": "10", "twelve": "12", "sixteen": "16"}
_ANY_BASE = compiled(r"[0-9]_\{?(?:\\text\{)?[0-9a-z]")
_NESTING = compiled(r"\\.|(?P<power>\^\s?\{)|(?P<open>[{(])|(?P<close>[})])", re.DOTALL)
_WORDS = compiled(r"\\text\{(?P<marked>[^{}\\0-9^_=+]*)\}|(?P<bare>[^\W\d_]{4,}(?:[ '-]+[^\W\d_]+)*)")
_CLOCK = compiled(r"(?P<time>[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)\s*(?P<half>[ap])?\.?\s*m?\.?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        number: its value, where it is a plain number.
        latex: what a worker is to compare; empty where none is needed.
        text: how it reads as a text.
        words: where it is words or a time, these alone.
        based: where it is a number in a base, its digits and the base.
        fault: why nothing can be compared with it; empty when all is well.
    """

    number: Fraction | None = None
    latex: str = ""
    text: str = ""
    words: str | None = None
    based: tuple[str, str] | None = None
    fault: str = ""

    def compare(self, answer: str) -> Literal["right", "wrong"] | None:
        """What a comparison of texts says; None where a worker has to say."""
        if len(answer) > LONGEST_LATEX + len(self.latex):
            return "wrong"
        form = latex_form(answer)
        if self.based is not None:
            return "right" if _based(form) == self.based else "wrong"
        words = _words(form)
        if (words is not None and words == self.words) or _text(form) == self.text:
            return "right"
        if not self.latex or (words is not None and self.words is not None):
            return "wrong"
        undone = _LEFT_UNDONE.search(form) and not _LEFT_UNDONE.search(self.latex)
        other_base = _ANY_BASE.search(form) and not _ANY_BASE.search(self.latex)
        return "wrong" if undone or other_base or too_deep(form) else None


@lru_cache(maxsize=4096)
def read_gold(text: str) -> Gold:
    r"""A dataset's gold.

    Example:
        >>> read_gold("1,000").number, read_gold(r"\text{Evelyn}").words, read_gold("52_8").based
        (Fraction(1000, 1), 'evelyn', ('52', '8'))
        >>> read_gold("12:00").compare("12:00 p.m."), read_gold("nan").fault
        ('wrong', 'it has no gold answer')
    """
    if text.strip().lower() in _MISSING:
        return Gold(fault="it has no gold answer")
    if len(text) > LONGEST_GOLD:
        return Gold(fault=f"its gold has {len(text)} characters; at most {LONGEST_GOLD} are compared")
    number = plain_number(text)
    if number is not None:
        return Gold(number=number)
    form = latex_form(text)
    based, words = _based(form), _words(form)
    clock = words is not None and _CLOCK.fullmatch(_text(form)) is not None
    needs_worker = based is None and not clock
    return Gold(latex=form if needs_worker else "", text=_text(form), words=words, based=based)


@lru_cache(maxsize=4096)
def latex_form(text: str) -> str:
    r"""LaTeX as the workers read it: in ASCII, no formatting around numbers, upright constants as letters.

    Example:
        >>> latex_form(r"$1 - \frac{1}{\mathrm{e}}$"), latex_form("-1./3")
        ('$1 - \\frac{1}{e}$', '-1/3')
    """
    form = unwrapped(CONSTANT.sub(r"\1", plain_text(text)))
    return _FULL_STOP.sub("", form).replace("\u2009", " ").strip()


def answer_form(text: str) -> str:
    r"""An answer that is no number, so that answers which read alike are one text.

    Example:
        >>> answer_form(r"\dfrac{ x }{2}$"), answer_form(r"\frac{x}{2}"), answer_form(r"\text{(Evelyn)}")
        ('\\frac{x}{2}', '\\frac{x}{2}', 'evelyn')
    """
    if len(text) > LONGEST_LATEX:
        return text.strip()
    form = latex_form(text)
    return _words(form) or _text(form)


def too_deep(latex: str) -> bool:
    """Whether braces or exponents are nested further than any answer's, which takes a parser seconds.

    Example:
        >>> too_deep("x^{2^{3}}"), too_deep("x^{" * 9 + "2" + "}" * 9)
        (False, True)
    """
    opened: list[bool] = []
    powers = 0
    for token in _NESTING.finditer(latex):
        if token["close"]:
            powers -= opened.pop() if opened else 0
        elif token["power"] or token["open"]:
            opened.append(token["power"] is not None)
            powers += opened[-1]
            if len(opened) > DEEPEST or powers > HIGHEST:
                return True
    return False


def _text(form: str) -> str:
    # How a formula reads whatever its spaces, sizes and dollars.
    plain = re.sub(r"\\[dtc]frac", r"\\frac", plain_latex(form))
    return re.sub(r"[\s$]|\\[()\[\]!]", "", plain).rstrip(".")


def _words(form: str) -> str | None:
    bare = plain_latex(form).strip(" $.,;:!*\u2009")
    clock = _CLOCK.fullmatch(bare)
    if clock is not None:
        return clock["time"].lstrip("0") + (clock["half"] or "").lower()
    match = _WORDS.fullmatch(bare)
    if match is None:
        return None
    words = " ".join((match["marked"] or match["bare"] or "").split()).strip(" .,;:!").casefold()
    return words.removeprefix("(").removesuffix(")") or None


def _based(form: str) -> tuple[str, str] | None:
    match = _BASED.fullmatch(plain_latex(form).strip(" $.\u2009"))
    if match is None or not (match["base"].isdigit() or match["base"] in _BASES):
        return None
    return match["digits"].lstrip("0").upper() or "0", _BASES.get(match["base"], match["base"])
