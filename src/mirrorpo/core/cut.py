"""One span of one completion that is hidden, and the tokens whose log-probability is then asked for."""

from dataclasses import dataclass
from typing import Literal

Masking = Literal["pad", "block", "delete", "direct"]

# The implementations of `transformers` that can be shown a mask with a hole in it.
TAKE_A_MASK = ("sdpa", "eager")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Completion `row` without its tokens [start, end), read at its tokens [first, last).

    Attributes:
        row: of the batch.
        start: first hidden token.
        end: one past the last hidden token.
        first: first token that is read, at or after `end`.
        last: one past the last token that is read, above `first`.
    """

    row: int
    start: int
    end: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.first < self.last:
            raise ValueError(f"a cut hides some tokens and reads some after them: {self}")

    def recomputed_from(self, masking: Masking) -> int:
        """The first token that is computed again, up to and without `last - 1`."""
        if masking == "pad":
            return self.start
        # Nothing between span and read tokens sees the span.
        return max(self.end, self.first - 1) if masking == "direct" else self.end
