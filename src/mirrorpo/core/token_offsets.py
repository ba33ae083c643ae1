"""Which characters of a completion's text each of its tokens wrote."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Interval: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOffsets:
    """A completion's text and the place of each of its tokens in it.

    Attributes:
        text: the completion decoded, special tokens left out.
        offsets: one (start, end) a token, `offsets[t]` being the half-open interval of the characters that
            token t wrote, in characters of `text`. Starts and ends never fall and every character has a
            token. Tokens that each wrote some bytes of one character all have that character; a token that
            wrote nothing (a special token) has an empty interval.

    Raises:
        ValueError: if the offsets run backwards, leave a character out or leave the text.

    Example:
        >>> token_offsets = TokenOffsets(text="a € b", offsets=[(0, 2), (2, 3), (2, 3), (3, 5), (5, 5)])
        >>> token_offsets.tokens(2, 4), token_offsets.tokens(4, 5), token_offsets.tokens(5, 5)
        ((1, 4), (3, 4), (5, 5))
    """

    text: str
    offsets: Sequence[Interval]

    def __post_init__(self) -> None:
        before: Interval = (0, 0)
        for token, (start, end) in enumerate(self.offsets):
            if not before[0] <= start <= before[1] <= end:
                raise ValueError(
                    f"token {token} has the interval {(start, end)} after {before}: intervals must not run "
                    f"backwards or leave a gap"
                )
            before = (start, end)
        if before[1] != len(self.text):
            raise ValueError(f"the offsets end at character {before[1]} of {len(self.text)}")

    def tokens(self, start: int, end: int) -> Interval:
        """The half-open interval of the tokens that wrote any of the characters from `start` up to `end`.

        An interval of no characters has no tokens. Tokens without text count only between others.
        """
        first = bisect_right(self.offsets, start, key=lambda interval: interval[1])
        last = bisect_left(self.offsets, end, key=lambda interval: interval[0])
        return (first, last) if start < end else (first, first)
