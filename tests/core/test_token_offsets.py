"""A text and its tokens' places: which tokens wrote a run of characters, and what is no spelling."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorpo.core.token_offsets import Interval, TokenOffsets

# Tokens of zero to four characters, some of which share a character with the one before.
TOKENS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12)


def with_offsets(tokens: list[tuple[int, bool]]) -> TokenOffsets:
    offsets: list[Interval] = []
    start = end = 0
    for length, shares in tokens:
        start = max(start, end - (shares and length > 0))
        end = max(end, start + length)
        offsets.append((start, end))
    return TokenOffsets(text="x" * end, offsets=offsets)


@given(tokens=TOKENS, data=st.data())
def test_the_tokens_of_a_run_are_those_that_wrote_any_of_it(
    tokens: list[tuple[int, bool]], data: st.DataObject
) -> None:
    token_offsets = with_offsets(tokens)
    if not token_offsets.text:
        return
    start = data.draw(st.integers(0, len(token_offsets.text) - 1))
    end = data.draw(st.integers(start + 1, len(token_offsets.text)))
    wrote = [
        token for token, (first, last) in enumerate(token_offsets.offsets) if first < end and start < last
    ]
    first, last = token_offsets.tokens(start, end)
    assert (first, last - 1) == (wrote[0], wrote[-1])


def test_tokens_without_text_count_only_between_others() -> None:
    token_offsets = TokenOffsets(text="abcd", offsets=[(0, 0), (0, 2), (2, 2), (2, 4), (4, 4)])
    assert token_offsets.tokens(0, 4) == (1, 4)
    assert token_offsets.tokens(0, 2) == (1, 2)
    assert token_offsets.tokens(2, 4) == (3, 4)


@given(tokens=TOKENS, data=st.data())
def test_no_characters_have_no_tokens(tokens: list[tuple[int, bool]], data: st.DataObject) -> None:
    token_offsets = with_offsets(tokens)
    place = data.draw(st.integers(0, len(token_offsets.text)))
    first, last = token_offsets.tokens(place, place)
    assert first == last <= len(token_offsets.offsets)


def test_an_empty_text_may_have_tokens_or_none() -> None:
    assert TokenOffsets(text="", offsets=[]).tokens(0, 0) == (0, 0)
    assert TokenOffsets(text="", offsets=[(0, 0)]).tokens(0, 0) == (1, 1)


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param([(0, 1), (2, 3)], id="a character without a token"),
        pytest.param([(1, 3)], id="the first character without a token"),
        pytest.param([(0, 2)], id="the last character without a token"),
        pytest.param([], id="no token"),
        pytest.param([(0, 4)], id="beyond the text"),
        pytest.param([(0, 2), (1, 3), (0, 3)], id="a start that falls"),
        pytest.param([(0, 3), (1, 2)], id="an end that falls"),
        pytest.param([(0, 3), (3, 2)], id="an end before its start"),
        pytest.param([(-1, 3)], id="before the text"),
    ],
)
def test_offsets_that_are_none_are_refused(offsets: list[Interval]) -> None:
    with pytest.raises(ValueError, match=r"offsets end|must not run backwards or leave a gap"):
        TokenOffsets(text="abc", offsets=offsets)


@given(tokens=TOKENS)
def test_neighbours_share_at_most_the_tokens_of_one_border(tokens: list[tuple[int, bool]]) -> None:
    token_offsets = with_offsets(tokens)
    for left, right in pairwise(range(len(token_offsets.text) + 1)):
        first, last = token_offsets.tokens(left, right)
        assert first < last
        assert all(
            token_offsets.offsets[token][0] <= left and right <= token_offsets.offsets[token][1]
            for token in (first, last - 1)
        )
