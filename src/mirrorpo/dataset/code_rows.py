"""Rows of programming problems: what each must hold, with file, row and fix where it does not."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from mirrorpo.dataset.jsonl import JsonRow, check_mark, parse_row

# A row behind what an error about it should name.
Located: TypeAlias = tuple[str, JsonRow]
# What a column holds: a text, a list of texts, or such a list that may be missing or null.
Kind: TypeAlias = Literal["text", "texts", "optional text", "optional texts"]

_NUMBER = re.compile(r"(?:[A-Za-z_]+/)?([0-9]+)")


def numbered(rows: Iterable[Located], columns: Mapping[str, Kind]) -> dict[int, Located]:
    """Rows by their `task_id`, a number or a name that ends in one ("HumanEval/3").

    Args:
        rows: the rows, in order.
        columns: what else each must hold.

    Raises:
        ValueError: naming the row and the fix, where a column is of another kind or a number comes again.

    Example:
        >>> rows = [("f, line 1", {"task_id": 3, "code": "x"}), ("f, line 2", {"task_id": "M/3"})]
        >>> numbered(rows[1:], {"code": "text"})
        Traceback (most recent call last):
        ValueError: f, line 2 (task_id 3): code is null; write a text, or delete the row
        >>> numbered(rows, {"code": "text"})
        Traceback (most recent call last):
        ValueError: f, line 2: task_id 3 is that of f, line 1 too; delete or renumber one of the two rows
    """
    out: dict[int, Located] = {}
    for location, row in rows:
        number = _number(row.get("task_id"), location)
        if number in out:
            raise ValueError(
                f"{location}: task_id {number} is that of {out[number][0]} too; delete or renumber one of "
                "the two rows"
            )
        for column, kind in columns.items():
            _check(row.get(column), kind, f"{location} (task_id {number}): {column}")
        out[number] = location, row
    return out


def json_rows(path: Path, keys: Sequence[str]) -> list[Located]:
    """The objects of a file that is one JSON list.

    Raises:
        ValueError: if the file is missing, is no such list, or an object lacks one of `keys`.
    """
    content = _content(path)
    check_mark(content, str(path))
    try:
        rows: object = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); was the download cut short? Fetch it again"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} is a JSON {type(rows).__name__}, not a list; write [{{...}}, ...]")
    locations = [f"{path}, row {number}" for number in range(1, len(rows) + 1)]
    return [
        (location, parse_row(json.dumps(row).encode(), keys, location))
        for location, row in zip(locations, rows, strict=True)
    ]


def gzip_rows(path: Path, keys: Sequence[str]) -> list[Located]:
    """The objects of a compressed JSON Lines file; blank lines are passed over.

    Raises:
        ValueError: if the file is missing or broken, or a line is not a JSON object that has all of `keys`.
    """
    try:
        content = gzip.decompress(_content(path))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is no whole gzip file ({error}); was the download cut short? Fetch it again"
        ) from error
    check_mark(content, f"{path}, line 1")
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(content.split(b"\n"), 1)]
    return [(location, parse_row(line, keys, location)) for location, line in lines if line.strip()]


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"no file {path}; put it there, or set MIRRORPO_DATA to the folder it belongs to")
    return path.read_bytes()


def _number(task: object, location: str) -> int:
    match = None if isinstance(task, bool) else _NUMBER.fullmatch(str(task))
    if match is None:
        raise ValueError(f"{location}: task_id is {json.dumps(task)}; write a number, or a name and a number")
    return int(match[1])


def _check(value: object, kind: Kind, what: str) -> None:
    if value is None and kind.startswith("optional"):
        return
    if kind.endswith("texts"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return
        raise ValueError(f"{what} is {_shown(value)}; write a list of texts, or delete the row")
    if not isinstance(value, str):
        raise ValueError(f"{what} is {_shown(value)}; write a text, or delete the row")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
