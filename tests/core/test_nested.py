"""Which of some sequences begin others, against every pair of them."""

from hypothesis import given
from hypothesis import strategies as st

from mirrorpo.core.nested import longest_of


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=8))
def test_each_begins_its_own_and_that_begins_no_longer_one(sequences: list[list[int]]) -> None:
    longest = longest_of(sequences)
    for sequence, number in zip(sequences, longest, strict=True):
        chosen = sequences[number]
        assert chosen[: len(sequence)] == sequence
        assert not any(other != chosen and other[: len(chosen)] == chosen for other in sequences)
    # Equal ones have the same, so that none is computed twice.
    assert len({*longest}) == len({tuple(sequences[number]) for number in longest})
