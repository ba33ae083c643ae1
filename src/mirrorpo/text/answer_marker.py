r"""Where a completion's answer stands: the marks that the reward reads and that spans of reasoning stop at.

Two marks are known, `####` and `\boxed{}`. Only the last one counts, even when it is empty or wrong: that
is what the completion ends up claiming, and listing candidates gains nothing. What stands in a model's
thinking (`text.thinking`) claims nothing. `####` before a heading (`text.heading`) is no mark, and before a
line without a number it gives way to a closed box.
"""

import re
from dataclasses import dataclass
from typing import Literal

from mirrorpo.text.heading import is_heading, states_number
from mirrorpo.text.thinking import Thinking, behind_thinking

_HASHES = re.compile("(?P<mark>(?<!#)####(?!#))|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
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


def marked_answer(text: str, thinking: Thinking = "skip") -> MarkedAnswer | None:
    r"""The region of the answer marked last: `####` or a closed `\boxed{}`, whichever starts later.

    Only exactly four hashes are a mark. None when nothing is marked. In time linear in the text.

    Args:
        text: a completion.
        thinking: "skip": an answer in the model's thinking is none; "read": it is as good as any other.

    Example:
        >>> text = "#### 17, or rather \\boxed{18}."
        >>> answer = marked_answer(text)
        >>> answer.mark, text[answer.start : answer.end], text[answer.opens : answer.closes]
        ('box', '\\boxed{18}', '18')
        >>> marked_answer("The answer is 18.") is None
        True
        >>> marked_answer("\\boxed{18}\n#### Step 2: Check").mark
        'box'
    """
    start, end = behind_thinking(text) if thinking == "skip" else (0, len(text))
    hashes, box = _last_hashes(text, start, end), _last_box(text, start, end)
    if hashes is None or box is None:
        return hashes or box
    if box.start > hashes.start or not states_number(text[hashes.opens : hashes.closes]):
        return box
    return hashes


def _last_hashes(text: str, start: int, end: int) -> MarkedAnswer | None:
    # Of each line the last mark and where the line ends; the last line that is no heading counts.
    lines: list[tuple[int, int]] = []
    mark = None
    for token in _HASHES.finditer(text, start, end):
        if token["mark"]:
            mark = token.end()
        elif mark is not None:
            lines.append((mark, token.start()))
            mark = None
    if mark is not None:
        lines.append((mark, end))
    for opens, closes in reversed(lines):
        if not is_heading(text[opens:closes]):
            return MarkedAnswer(mark="hashes", start=opens - 4, opens=opens, closes=closes, end=closes)
    return None


def _last_box(text: str, start: int, end: int) -> MarkedAnswer | None:
    # The closed box that starts last; one pass, whatever the nesting.
    last = None
    opened: list[re.Match[str]] = []
    for token in _BRACES.finditer(text, start, end):
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
