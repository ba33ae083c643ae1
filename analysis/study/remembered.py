"""Values that are computed once for each key."""

from collections.abc import Callable, Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(dict[K, V]):
    """What a function gives for each key, computed when the key is first read.

    Example:
        >>> squares = Remembered(lambda number: number * number)
        >>> squares[3], squares
        (9, {3: 9})
    """

    def __init__(self, compute: Callable[[K], V]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, key: K) -> V:
        self[key] = value = self._compute(key)
        return value
