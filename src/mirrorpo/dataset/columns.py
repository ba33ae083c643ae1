"""Texts made of a row's columns: a column's name, or a template such as `{Body} {Question}`."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

from mirrorpo.dataset.jsonl import JsonRow

_FIELD = re.compile(r"\{\{|\}\}|\{(?P<column>[^{}]+?)(?P<optional>\?)?\}")
_ABSENT = object()
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Template:
    """A setting that says how a text is made of a row.

    A setting without braces is the name of a column, and the text is what stands there. Otherwise `{name}`
    stands for a column, `{name?}` for one that may be empty or absent, `{{` for a brace. `a.b` is column b of
    the object in column a, `a.0` the first of its list.

    Attributes:
        setting: of the dataset, for errors.
        text: its value.

    Example:
        >>> Template("question", "{Body} {Question}").of({"Body": "Two pens.", "Question": "How many?"})
        'Two pens. How many?'
        >>> Template("question", "{do}: {input?}").of({"do": "Greet"}), Template("gold", "a.0").of({"a": [7]})
        ('Greet:', '7')
    """

    setting: str
    text: str

    def of(self, row: JsonRow) -> str:
        """The text of a row.

        Raises:
            ValueError: naming the column, what it holds and the fix.
        """
        if "{" not in self.text:
            return _text(row, self.text, self)
        made = _FIELD.sub(lambda match: self._field(row, match), self.text).strip()
        if not made:
            raise ValueError(
                f"dataset.{self.setting}={self.text!r} makes an empty text of it; delete the row"
            )
        return made

    def columns(self) -> list[str]:
        """The columns that it names."""
        if "{" not in self.text:
            return [self.text]
        return [match["column"] for match in _FIELD.finditer(self.text) if match["column"]]

    def _field(self, row: JsonRow, match: re.Match[str]) -> str:
        if not match["column"]:
            return match[0][0]
        if match["optional"] and value_at(row, match["column"]) in (_ABSENT, None, ""):
            return ""
        return _text(row, match["column"], self)


def value_at(row: JsonRow, column: str) -> object:
    """What stands in a column, by its name or its path; `absent` knows where nothing does."""
    if column in row:
        return row[column]
    value: object = row
    for part in column.split("."):
        if isinstance(value, dict) and part in value:
            value = cast("JsonRow", value)[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(cast("list[object]", value)):
            value = cast("list[object]", value)[int(part)]
        else:
            return _ABSENT
    return value


def absent(value: object) -> bool:
    """Whether `value_at` found nothing."""
    return value is _ABSENT


def plain_text(value: object) -> str | None:
    """A text, number or truth value as text; None for what is none of these, and for a missing number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, str | int | float) else None


def _text(row: JsonRow, column: str, template: Template) -> str:
    value = value_at(row, column)
    if value is _ABSENT:
        raise ValueError(f"it lacks column {column!r} (it has {_named(row)}); add it, or delete the row")
    text = plain_text(value)
    if text is not None and text.strip():
        return text
    if isinstance(value, list | dict):
        entry = next(iter(cast("JsonRow", value)), 0) if isinstance(value, dict) else 0
        raise ValueError(
            f"column {column!r} is a {type(value).__name__}; name an entry of it, as in "
            f"dataset.{template.setting}={column}.{entry}"
        )
    state = "null" if value is None else f"{value!r}"
    optional = (
        f", or {{{column}?}} in dataset.{template.setting} if it may be empty" if "{" in template.text else ""
    )
    raise ValueError(f"column {column!r} is {state}; write a text or a number, or delete the row{optional}")


def check_columns(templates: Iterable[Template], columns: Sequence[str], source: str) -> None:
    """Refuse a setting that names a column which no row has.

    Raises:
        ValueError: with the nearest names.
    """
    for template in templates:
        for column in template.columns():
            if column in columns or column.partition(".")[0] in columns:
                continue
            near = nearest(column.partition(".")[0], columns)
            guess = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"dataset.{template.setting}={template.text!r}: {source} has no column {column!r}, "
                f"only {_named(columns)}{guess}"
            )


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are most like one, whatever their case.

    >>> nearest("boddy", ["Body", "Question"])
    ['Body']
    """
    by_case = {text.casefold(): text for text in known}
    return [by_case[text] for text in get_close_matches(name.casefold(), by_case, 2, 0.6)]


def _named(columns: Iterable[str]) -> str:
    names = [str(name) for name in columns]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
