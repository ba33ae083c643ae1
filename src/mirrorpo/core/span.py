"""Labelled runs of tokens, and what hiding one did to a score."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "calculation", "sentence", "scaffolding", "answer", "format", "statement", "segment"
]


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled run of completion tokens.

    Attributes:
        start: the first token.
        end: the token behind the last, above `start`.
        kind: what it is.
    """

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSpan:
    """A span with what hiding it did, or a segment with what it did to the expected reward.

    Attributes:
        row: the completion's, in the batch.
        span: which tokens, and what they are.
        drop: of the score, by the weighting's settings; positive when hiding hurts. Of a segment its gain.
    """

    row: int
    span: Span
    drop: float
