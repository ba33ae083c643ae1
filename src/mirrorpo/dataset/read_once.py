"""Splits that a dataset reads once, though the questions, the fingerprint and the checks each want them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TypeVar

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadsOnce:
    """A dataset that remembers, for as long as it lives, the splits that it has read.

    Attributes:
        read_splits: their questions; no setting, and not what makes two datasets equal.
    """

    read_splits: dict[Split, Sequence[Prompt]] = field(
        default_factory=dict[Split, Sequence[Prompt]], init=False, repr=False, compare=False
    )


D = TypeVar("D", bound=ReadsOnce)


def read_once(load: Callable[[D, Split], Sequence[Prompt]]) -> Callable[[D, Split], list[Prompt]]:
    """A dataset's `load` that reads each split at its first call."""

    @wraps(load)
    def remembered(dataset: D, split: Split) -> list[Prompt]:
        if split not in dataset.read_splits:
            dataset.read_splits[split] = load(dataset, split)
        return list(dataset.read_splits[split])

    return remembered
