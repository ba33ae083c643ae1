"""Multiple choice: the choices of a row under letters, in an order by seed, and which of them is right."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from string import ascii_uppercase
from typing import cast

from mirrorpo.dataset.columns import Template, absent, plain_text, value_at
from mirrorpo.dataset.gold import Extractor
from mirrorpo.dataset.jsonl import JsonRow

_MARKED = re.compile(r"\(?([A-Za-z0-9])\s*[).:]\s*(.*)", re.DOTALL)
_LETTER = re.compile(r"\W*([A-Za-z0-9]+)\W*")
# Of choices that speak of each other the order is part of what they say.
_OF_OTHERS = re.compile(
    r"\b(?:all|none|both|neither|any|either)\b.{0,12}\b(?:above|below|these|them|choices|options)\b"
    r"|\b[A-H] (?:and|or|nor) [A-H]\b|^\W*[A-H]\s*(?:,|&)\s*[A-H]\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A row's choices with its labels, in the order in which they are stored."""

    texts: Sequence[str]
    labels: Sequence[str]

    def right(self, gold: str, extractor: Extractor) -> int:
        """Which choice the gold names, from 0.

        Raises:
            ValueError: if it names none.
        """
        position = self._position(gold.strip(), extractor)
        if position is None or not 0 <= position < len(self.texts):
            known = {"letter": self.labels, "choice": self.texts}.get(extractor)
            first = int(extractor == "index_from_1")
            choose = ", ".join(known) if known else f"{first} to {len(self.texts) - 1 + first}"
            raise ValueError(
                f"{gold!r} names none of the choices {choose}; correct it, or choose another "
                "dataset.extractor (letter, index, index_from_1, choice)"
            )
        return position

    def _position(self, gold: str, extractor: Extractor) -> int | None:
        if extractor == "choice":
            alike = [_folded(text) for text in self.texts]
            return alike.index(_folded(gold)) if _folded(gold) in alike else None
        if extractor == "letter":
            letter = _LETTER.fullmatch(gold)
            labels = [label.casefold() for label in self.labels]
            named = "" if letter is None else letter[1].casefold()
            return labels.index(named) if named in labels else None
        whole = re.fullmatch(r"([0-9]+)(\.0+)?", gold)
        return None if whole is None else int(whole[1]) - int(extractor == "index_from_1")


def order(choices: Choices, question: str, seed: int | None) -> list[int]:
    """The stored positions in the order in which they are shown: by a hash of seed, question and choice.

    A row's order depends on no other row. Without a seed, and where a choice speaks of others ("all of the
    above"), it is the stored one.
    """
    positions = list(range(len(choices.texts)))
    if seed is None or any(_OF_OTHERS.search(text) for text in choices.texts):
        return positions
    return sorted(
        positions,
        key=lambda at: sha256(f"{seed}\n{question}\n{choices.texts[at]}".encode()).digest(),
    )


def shown(choices: Choices, positions: Sequence[int], line: str) -> str:
    """The choices under letters, one a line.

    Example:
        >>> choices = Choices(texts=["red", "blue"], labels=["A", "B"])
        >>> shown(choices, [1, 0], "{letter}) {choice}")
        'A) blue\\nB) red'
    """
    return "\n".join(
        line.replace("{letter}", letter).replace("{choice}", choices.texts[at])
        for letter, at in zip(ascii_uppercase, positions, strict=False)
    )


def read_choices(row: JsonRow, setting: str | Sequence[str], labels: str | None) -> Choices:
    """The choices of a row.

    Args:
        row: its columns.
        setting: a column that holds a list of texts, an object with `text` and `label`, a list of such, or an
            object of texts by label; or a list of columns or templates, a choice each.
        labels: column of the labels by which the gold names choices; None: those of the object, or A, B, ...

    Raises:
        ValueError: naming the column and the fix.
    """
    if isinstance(setting, str):
        texts, given = _of_column(row, setting)
    else:
        texts, given = [Template("choices", column).of(row) for column in setting], None
    if labels is not None:
        given = _texts(value_at(row, labels), labels)
    named = ", ".join(map(repr, [setting] if isinstance(setting, str) else setting))
    texts = [text.strip() for text in texts]
    if not 2 <= len(texts) <= len(ascii_uppercase) or (given is not None and len(given) != len(texts)):
        counted = f"{len(texts)} choices" + ("" if given is None else f" and {len(given)} labels")
        raise ValueError(
            f"column {named}: there are {counted}; give 2 to 26, and as many labels where there are some"
        )
    if not all(texts) or len({*map(_folded, texts)}) < len(texts):
        raise ValueError(f"column {named}: the choices {texts} have an empty one or two alike; correct them")
    return Choices(texts=_unmarked(texts), labels=given or list(ascii_uppercase[: len(texts)]))


def _of_column(row: JsonRow, column: str) -> tuple[list[str], list[str] | None]:
    value = value_at(row, column)
    if isinstance(value, Mapping):
        fields = cast("JsonRow", value)
        if isinstance(fields.get("text"), list):
            label = fields.get("label")
            return _texts(fields["text"], column), _texts(label, column) if label else None
        return _texts(list(fields.values()), column), [str(key) for key in fields]
    items = cast("list[object]", value) if isinstance(value, list) else []
    if items and all(isinstance(item, Mapping) and "text" in item for item in items):
        rows = cast("list[JsonRow]", items)
        given = [str(item["label"]) for item in rows if "label" in item]
        return _texts([item["text"] for item in rows], column), given or None
    return _texts(value, column), None


def _texts(value: object, column: str) -> list[str]:
    if absent(value):
        raise ValueError(f"it lacks column {column!r}; add it, or delete the row")
    texts = [plain_text(item) for item in cast("list[object]", value)] if isinstance(value, list) else [None]
    if any(text is None for text in texts):
        raise ValueError(
            f"column {column!r} is {_short(value)}; it needs a list of texts, or name a column for each, as "
            "in dataset.choices=[a,b,c]"
        )
    return cast("list[str]", texts)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unmarked(texts: Sequence[str]) -> list[str]:
    # "A) 21" already says its letter.
    marks = [_MARKED.fullmatch(text) for text in texts]
    own = all(
        mark and mark[1].upper() == letter for mark, letter in zip(marks, ascii_uppercase, strict=False)
    )
    return (
        [mark[2] for mark in marks if mark]
        if own and all(mark and mark[2] for mark in marks)
        else list(texts)
    )


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
