r"""Spans of a completion: runs of tokens that say one thing, found in its text.

A finder cuts the text first and then looks up which tokens wrote each piece. A token belongs to a span
when it wrote any of the span's characters. A token that wrote some of two neighbours belongs to
the earlier one, so spans share no token; one that wrote some of the answer's mark belongs to the answer.
Tokens without text (end of sequence) belong to a span only between tokens that do.

Spans of reasoning stand before the answer: one that reaches into the answer region (`text.answer_marker`,
the marks that the reward reads) or stands behind it is dropped, since masking it could not change the
answer's probability or would mask the answer.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from mirrorpo.core.patterns import compiled
from mirrorpo.core.span import Kind, Span
from mirrorpo.core.token_offsets import Interval, TokenOffsets
from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.weighting.equations import calculations
from mirrorpo.weighting.statements import statements


@runtime_checkable
class SpanFinder(Protocol):
    """Spans of one completion: in order, without a common token, the same for the same offsets.

    Never raises on what a model wrote.
    """

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """Calculations with their results: "48/2 = 24", "$5 x 4 = $20"; `equations.calculations` has the grammar.

    Where the result is the marked answer itself ("48 + 24 = \\boxed{72}"), the span ends before the mark.

    Attributes:
        max_spans: how many are kept, the first ones, >= 1.
        min_tokens: a span of fewer tokens is dropped, >= 1.
        max_tokens: a span of more tokens is dropped.
        max_backslashes: a span with a larger share of backslashes among its characters is dropped, in [0, 1].
        unit_words: how many words in a row may stand behind an operand, >= 0.

    References:
        Paper A's public code keeps the first 5, drops spans over 50 tokens and over 0.3 backslashes, and
        knows no units; whether the reported runs did is not known. https://arxiv.org/abs/2602.09331
    """

    max_spans: int
    min_tokens: int
    max_tokens: int
    max_backslashes: float
    unit_words: int

    def __post_init__(self) -> None:
        _check(self.max_spans, self.min_tokens, self.max_tokens, self.max_backslashes)
        if self.unit_words < 0:
            raise ValueError(
                f"unit_words={self.unit_words} of a span finder: give how many words a unit may have, "
                "0 for none"
            )

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        stop = _answer_start(token_offsets.text)
        intervals = calculations(
            token_offsets.text, unit_words=self.unit_words, end=stop, answered=stop < len(token_offsets.text)
        )
        plain = _with_few_backslashes(token_offsets.text, intervals, self.max_backslashes)
        return _spans(
            token_offsets, plain, "calculation", stop, self.max_spans, self.min_tokens, self.max_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Sentences: up to a full stop, question or exclamation mark before a space, or to the end of the text.

    A point inside a number, behind a few abbreviations (Mr., e.g.) or behind a list number ends none.

    Attributes:
        max_spans: how many are kept, the first ones, >= 1.
        min_tokens: a span of fewer tokens is dropped, >= 1.
        max_tokens: a span of more tokens is dropped.
        max_backslashes: a span with a larger share of backslashes among its characters is dropped, in [0, 1].
        break_at: "line" ends a sentence at every line end, "blank_line" at blank lines only.

    References:
        Paper A's public code reads the first 20, keeps those of 5 to 50 tokens with at most 0.3 backslashes,
        and breaks at blank lines; whether the reported runs did is not known.
        https://arxiv.org/abs/2602.09331
    """

    max_spans: int
    min_tokens: int
    max_tokens: int
    max_backslashes: float
    break_at: Literal["line", "blank_line"]

    def __post_init__(self) -> None:
        _check(self.max_spans, self.min_tokens, self.max_tokens, self.max_backslashes)
        if self.break_at not in _SENTENCE_END:
            raise ValueError(
                f"break_at={self.break_at!r} of a span finder is unknown; use line or blank_line"
            )

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        text = token_offsets.text
        plain = _with_few_backslashes(text, _sentences(text, self.break_at), self.max_backslashes)
        stop = _answer_start(text)
        return _spans(
            token_offsets, plain, "sentence", stop, self.max_spans, self.min_tokens, self.max_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Statements:
    """Python statements; `statements.statements` says what one is and where the source stands.

    Source has no marked answer (`####` begins a comment there), so none ends the search.

    Attributes:
        max_spans: how many are kept, the first ones, >= 1.
        min_tokens: a span of fewer tokens is dropped, >= 1.
        max_tokens: a span of more tokens is dropped.
    """

    max_spans: int
    min_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        _check(self.max_spans, self.min_tokens, self.max_tokens)

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        source, stop = statements(token_offsets.text), len(token_offsets.text)
        return _spans(
            token_offsets, source, "statement", stop, self.max_spans, self.min_tokens, self.max_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """Bare formatting before the answer: runs of the same few characters, such as rules and headings.

    Attributes:
        max_spans: how many are kept, the first ones, >= 1.
        characters: what formatting is made of.
        min_characters: a shorter run is none, >= 1; from 2 on the "=" of a calculation is left alone.

    References:
        Paper A's public code gives tokens of "#", "=" and "-" a tenth of their importance.
        https://arxiv.org/abs/2602.09331
    """

    max_spans: int
    characters: str
    min_characters: int

    def __post_init__(self) -> None:
        _check(self.max_spans)
        if not self.characters or self.min_characters < 1:
            raise ValueError(
                f"characters={self.characters!r}, min_characters={self.min_characters} of a span finder: "
                "give some characters and at least 1"
            )

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        runs = re.finditer(f"[{re.escape(self.characters)}]++", token_offsets.text)
        long = (run.span() for run in runs if len(run[0]) >= self.min_characters)
        stop, any_length = _answer_start(token_offsets.text), len(token_offsets.offsets)
        return _spans(token_offsets, long, "format", stop, self.max_spans, 1, any_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaffolding:
    """What stands around other spans before the answer: each unbroken run of tokens that none of them holds.

    Attributes:
        around: the other spans.
        min_tokens: a run of fewer tokens is dropped, >= 1.
    """

    around: SpanFinder
    min_tokens: int

    def __post_init__(self) -> None:
        _check(1, self.min_tokens, self.min_tokens)

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        answer = answer_span(token_offsets)
        # Without an answer, tokens without text (the end of sequence) still hold no reasoning.
        stop = answer.start if answer is not None else token_offsets.tokens(0, len(token_offsets.text))[1]
        edges = [0, *(edge for span in self.around(token_offsets) for edge in (span.start, span.end)), stop]
        runs = zip(edges[::2], edges[1::2], strict=True)
        long = ((start, end) for start, end in runs if end - start >= self.min_tokens)
        return [
            Span(start, end, "scaffolding")
            for start, end in long
            if token_offsets.offsets[start][0] < token_offsets.offsets[end - 1][1]
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Several finders' spans; an earlier finder's span wins over a later one's that shares a token with it.

    Attributes:
        finders: in order of precedence.
        max_spans: how many spans are kept of all, the first ones of the completion, >= 1.

    References:
        Paper A's public code puts calculations before sentences and keeps 10; the documented range is 5 to
        20. https://arxiv.org/abs/2602.09331
    """

    finders: Sequence[SpanFinder]
    max_spans: int

    def __post_init__(self) -> None:
        _check(self.max_spans)

    def __call__(self, token_offsets: TokenOffsets) -> Sequence[Span]:
        claimed: set[int] = set()
        spans: list[Span] = []
        for finder in self.finders:
            free = [span for span in finder(token_offsets) if claimed.isdisjoint(range(span.start, span.end))]
            claimed.update(*(range(span.start, span.end) for span in free))
            spans += free
        return sorted(spans, key=lambda span: span.start)[: self.max_spans]


def answer_span(token_offsets: TokenOffsets) -> Span | None:
    """The tokens of the answer region, its mark included; None when the completion marks no answer.

    Example:
        >>> offsets = [(0, 2), (2, 3), (3, 7), (7, 8), (8, 10), (10, 10)]
        >>> answer_span(TokenOffsets(text="So\\n#### 72", offsets=offsets))
        Span(start=2, end=5, kind='answer')
    """
    answer = marked_answer(token_offsets.text)
    return None if answer is None else Span(*token_offsets.tokens(answer.start, answer.end), "answer")


def _answer_start(text: str) -> int:
    answer = marked_answer(text)
    return len(text) if answer is None else answer.start


def _spans(
    token_offsets: TokenOffsets,
    intervals: Iterable[Interval],
    kind: Kind,
    stop: int,
    max_spans: int,
    min_tokens: int,
    max_tokens: int,
) -> list[Span]:
    # `intervals` are in order and disjoint; `stop` is the first character that no span may hold.
    spans: list[Span] = []
    limit, length = len(token_offsets.offsets), len(token_offsets.text)
    if stop < length:
        limit = token_offsets.tokens(stop, length)[0]
    free = 0
    for start, end in intervals:
        if end > stop or len(spans) == max_spans:
            break
        first, last = token_offsets.tokens(start, end)
        first, last = max(first, free), min(last, limit)
        if min_tokens <= last - first <= max_tokens:
            spans.append(Span(first, last, kind))
            free = last
    return spans


def _with_few_backslashes(text: str, intervals: Iterable[Interval], share: float) -> Iterator[Interval]:
    for start, end in intervals:
        if text.count("\\", start, end) <= share * (end - start):
            yield start, end


_STOP = r"(?<![.!?])[.!?]++[\"'\u201d\u2019)\]*_]*+(?=\s|\Z)|[\u3002\uff01\uff1f]++"
_SENTENCE_END = {"line": compiled(rf"{_STOP}|[\n\r]"), "blank_line": compiled(rf"{_STOP}|\n[^\S\n]*+\n")}
_NO_END = compiled(r"(?:(?<![A-Za-z])(?:Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e)|^[^\S\n]*[0-9]{1,2})\Z", re.MULTILINE)


def _sentences(text: str, break_at: Literal["line", "blank_line"]) -> Iterator[Interval]:
    begin = 0
    for stop in (*(match for match in _SENTENCE_END[break_at].finditer(text)), None):
        end = stop.end() if stop is not None else len(text)
        if stop is not None and stop[0] == ".":
            point = stop.start()
            if _NO_END.search(text, max(0, point - 8), point):
                continue
        sentence = text[begin:end]
        if sentence.strip():
            yield begin + len(sentence) - len(sentence.lstrip()), begin + len(sentence.rstrip())
        begin = end


def _check(max_spans: int, min_tokens: int = 1, max_tokens: int = 1, max_backslashes: float = 0.0) -> None:
    if max_spans < 1:
        raise ValueError(f"max_spans={max_spans} of a span finder: keep at least 1")
    if not 1 <= min_tokens <= max_tokens:
        raise ValueError(
            f"min_tokens={min_tokens}, max_tokens={max_tokens} of a span finder: "
            "need 1 <= min_tokens <= max_tokens"
        )
    if not 0 <= max_backslashes <= 1:
        raise ValueError(
            f"max_backslashes={max_backslashes} of a span finder is a share: give a number in [0, 1]"
        )
