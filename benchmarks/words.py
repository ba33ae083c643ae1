"""A vocabulary of any size for models of random weights."""

import itertools
import string
from collections.abc import Iterator


def words(count: int) -> Iterator[str]:
    """Words of four letters, each a token of its own: a digit in a word would be one, and the word two."""
    return (
        "".join(word) for word in itertools.islice(itertools.product(string.ascii_lowercase, repeat=4), count)
    )
