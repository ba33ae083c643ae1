r"""Where a completion's answer stands: the marks that the reward reads and that spans of reasoning stop at.

Two marks are known, `####` and `\boxed{}`. Only the last one counts, even when it is empty or wrong: that
is what the completion ends up claiming, and listing candidates gains nothing.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal

_HASHES = re.compile(r"(?<!#)####(?!#)")
_BRACES = re.compile(r"(?P<boxed>\\boxed\s?\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedAnswer:
    r"""The answer region of a text: a mark and what it marks. All positions are in characters of the text.

    Attributes:
        mark: "hashes", whose answer is the rest of their line, or "box", whose answer is what it holds.
        start: where the mark begins.
        opens: where the answer itself begins, behind the mark.
        closes: where the answer itself ends.
        end: where the region ends: `closes`, or behind a box's closing brace.
    """

    mark: Literal["hashes", "box"]
    start: int
    opens: int
    closes: int
    end: int


def marked_answer(text: str) -> MarkedAnswer | None:
    r"""The region of the answer marked last: `####` or a closed `\boxed{}`, whichever starts later.

    Only exactly four hashes are a mark. None when nothing is marked. In time linear in the text.

    Example:
        >>> text = "#### 17, or rather \\boxed{18}."
        >>> answer = marked_answer(text)
        >>> answer.mark, text[answer.start : answer.end], text[answer.opens : answer.closes]
        ('box', '\\boxed{18}', '18')
        >>> marked_answer("The answer is 18.") is None
        True
    """
    hashes, box = _last_hashes(text), _last_box(text)
    if hashes is None or box is None:
        return hashes or box
    return max(hashes, box, key=lambda answer: answer.start)


def _last_hashes(text: str) -> MarkedAnswer | None:
    marks = deque(_HASHES.finditer(text), maxlen=1)
    if not marks:
        return None
    last = marks[0]
    line = (text[last.end() :].splitlines() or [""])[0]
    closes = last.end() + len(line)
    return MarkedAnswer(mark="hashes", start=last.start(), opens=last.end(), closes=closes, end=closes)


def _last_box(text: str) -> MarkedAnswer | None:
    # The closed box that starts last; one pass, whatever the nesting.
    last = None
    opened: list[re.Match[str]] = []
    for token in _BRACES.finditer(text):
        if token["boxed"] or token["open"]:
            opened.append(token)
        elif token["close"] and opened:
            opening = opened.pop()
            if opening["boxed"] and (last is None or opening.start() > last.start):
                last = MarkedAnswer(
                    mark="box",
                    start=opening.start(),
                    opens=opening.end(),
                    closes=token.start(),
                    end=token.end(),
                )
    return last
