"""Questions of the planted worlds, `ask amber c`: a tag without meaning, and the letter that is asked for."""

import random
from collections.abc import Iterable, Mapping, Sequence

from mirrorpo.core.protocols import Split

TAGS = (
    "amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath", "inlet", "jetty", "knoll",
    "larch", "maple", "north", "ocean", "pearl", "quill", "raven", "slate", "thorn", "umber", "vapor",
    "wheat", "xenon", "yield", "zebra", "acorn", "basil",
)  # fmt: skip
LETTERS = "abcdefghijklmnop"


def check_ranges(entries: Iterable[tuple[str, int, int, int]]) -> None:
    """Refuse a number out of its range.

    Args:
        entries: of each setting its name, its value, the least and the most.

    Raises:
        ValueError: naming the setting.
    """
    for name, value, least, most in entries:
        if not least <= value <= most:
            raise ValueError(f"dataset.{name}={value}: give a whole number from {least} to {most}")


def check_held_out(letters: int, validation_size: int, test_size: int) -> None:
    """Refuse sizes that leave no question for training.

    Raises:
        ValueError: naming the settings.
    """
    questions = len(TAGS) * letters
    if validation_size + test_size >= questions:
        raise ValueError(
            f"dataset.validation_size={validation_size} and dataset.test_size={test_size} "
            f"leave none of {questions} questions for training; lower them or raise dataset.letters"
        )


def letter_questions(
    split: Split, *, letters: int, validation_size: int, test_size: int, seed: int
) -> Sequence[tuple[str, str]]:
    """The tags and letters of a split's questions, in an order that the seed draws.

    Args:
        split: which part; training has all that is not held out.
        letters: the first so many are asked for.
        validation_size: questions held out for validation.
        test_size: questions held out for the test.
        seed: of the order.
    """
    pairs = [(tag, letter) for tag in TAGS for letter in LETTERS[:letters]]
    random.Random(seed).shuffle(pairs)
    held_out = validation_size + test_size
    of_split: Mapping[Split, Sequence[tuple[str, str]]] = {
        "validation": pairs[:validation_size],
        "test": pairs[validation_size:held_out],
        "train": pairs[held_out:],
    }
    return of_split[split]
