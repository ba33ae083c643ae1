"""Where a completion's thinking ends: drafts between `<think>` and `</think>` are no answers."""

import re
from typing import Literal

Thinking = Literal["skip", "read"]  # whether an answer that stands in the thinking counts

_TAGS = re.compile(r"(?P<opens><think(?:ing)?>|\[THINK\])|</think(?:ing)?>|\[/THINK\]")


def behind_thinking(text: str) -> tuple[int, int]:
    """The stretch of a text in which its answer stands, in characters: behind what was thought.

    A closing tag without an opening one ends thinking too, since some chat templates open it in the prompt.
    Thinking that nothing closes lasts to the end. A text without tags is an answer from its start.

    Example:
        >>> text = "<think>17? 18!</think>It is 18."
        >>> text[slice(*behind_thinking(text))]
        'It is 18.'
        >>> behind_thinking("<think>17? 18"), behind_thinking("18")
        ((0, 0), (0, 2))
    """
    start, opened = 0, None
    for tag in _TAGS.finditer(text):
        if not tag["opens"]:
            start, opened = tag.end(), None
        elif opened is None:
            opened = tag.start()
    return start, len(text) if opened is None else opened
