"""Sequences that are beginnings of each other."""

from collections.abc import Sequence


def longest_of(sequences: Sequence[Sequence[int]]) -> list[int]:
    """For each sequence the number of one that it begins, or is, and that begins no longer one.

    Example:
        >>> longest_of([[1], [1, 2, 3], [1, 2], [4], [4]])
        [1, 1, 1, 4, 4]
    """
    ordered = [tuple(sequence) for sequence in sequences]
    longest = [0] * len(ordered)
    last = -1
    # Falling, a beginning stands behind all that go on from it.
    for number in sorted(range(len(ordered)), key=lambda number: (ordered[number], number), reverse=True):
        if last < 0 or ordered[last][: len(ordered[number])] != ordered[number]:
            last = number
        longest[number] = last
    return longest
