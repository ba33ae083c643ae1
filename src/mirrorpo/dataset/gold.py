r"""The gold answer in the text of a column: the text itself, a number, what follows `####`, what is boxed."""

import re
from collections import deque
from typing import Literal, TypeAlias

from mirrorpo.text.answer_marker import marked_answer

# How the gold is read from its text. Those of CHOICES say which choice it names.
Extractor: TypeAlias = Literal[
    "text", "number", "hashes", "box", "latex", "letter", "index", "index_from_1", "choice", "tests"
]
CHOICES = ("letter", "index", "index_from_1", "choice")

_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-+])?\$?\s?(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<rest>[eE][-+]?[0-9]+|/[0-9]+)?"
)
_FORMULAS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (r"\$\$(.+)\$\$", r"\$([^$]+)\$", r"\\\[(.+)\\\]", r"\\\((.+)\\\)")
)
_BRACE = re.compile(r"\\.|([{}])", re.DOTALL)


def extracted(text: str, extractor: Extractor) -> str:
    r"""The gold that a text holds.

    Args:
        text: of the column.
        extractor: "number": its last number; "hashes": the line behind its last `####`; "box": its last
            closed `\boxed{}`; "latex": the text without the dollars around it; otherwise the text.

    Raises:
        ValueError: saying what is missing, and the fix.

    Example:
        >>> extracted("2 * 9 = 18 eggs\n#### 1,018", "hashes"), extracted("So it is $1,018.50.", "number")
        ('1,018', '1,018.50')
        >>> extracted(r"$\frac{1}{2}$", "latex"), extracted(r"Hence \boxed{\sqrt{3}}.", "box")
        ('\\frac{1}{2}', '\\sqrt{3}')
    """
    if extractor == "number":
        return _last_number(text)
    if extractor == "hashes":
        return _behind_hashes(text)
    if extractor == "box":
        return boxed(text)
    return _formula(text) if extractor == "latex" else text.strip()


def _last_number(text: str) -> str:
    numbers = deque(_NUMBER.finditer(text.replace("\u2212", "-")), maxlen=1)
    if not numbers:
        raise ValueError(f"{_end(text)} holds no number; correct it, or choose another dataset.extractor")
    last = numbers[0]
    sign = "-" if last[0].startswith("-") else ""
    # A column of decimals has whole numbers as 145.0.
    digits = last["digits"] if last["rest"] else re.sub(r"\.0+$", "", last["digits"])
    return sign + digits + (last["rest"] or "")


def _behind_hashes(text: str) -> str:
    _, mark, behind = text.rpartition("####")
    lines = behind.strip().splitlines()
    if not mark or not lines:
        raise ValueError(f"{_end(text)} has no answer behind ####; end it in a line like '#### 18'")
    return lines[0].strip()


def boxed(text: str) -> str:
    r"""What the last closed `\boxed{}` of a text holds.

    Raises:
        ValueError: if there is none.
    """
    box = marked_answer(text.replace("####", ""), "read")
    if box is None or not (gold := text.replace("####", "")[box.opens : box.closes].strip()):
        raise ValueError(f"{_end(text)} has no closed \\boxed{{}} with an answer; box the answer")
    return gold


def _formula(text: str) -> str:
    text = text.strip()
    for pattern in _FORMULAS:
        if match := pattern.fullmatch(text):
            text = match[1].strip()
            break
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[1] or "", 0)
        if depth < 0:
            break
    if depth or not text:
        raise ValueError(f"{_end(text)} is no LaTeX whose braces close; correct it")
    return text


def _end(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= 40 else "..." + shown[-37:])
