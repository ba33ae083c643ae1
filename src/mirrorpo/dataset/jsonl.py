"""JSON Lines files: one object a line, and errors that name the file, the line and the fix."""

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias, cast

from mirrorpo.config.values import JsonObject

# One object of a JSON file, as it came; what reads it knows what stands under its keys.
JsonRow: TypeAlias = JsonObject


def read_jsonl(path: Path, keys: Sequence[str]) -> list[JsonRow]:
    """The objects of a file in order; row i stands on line i + 1.

    Raises:
        ValueError: if the file is missing, or a line is not a JSON object that has all of `keys`.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; put it there, or set MIRRORPO_DATA to the folder it belongs to")
    rows: list[JsonRow] = []
    with path.open("rb") as file:
        # Decoded line by line, so that a bad byte is reported with its line too.
        for number, line in enumerate(file, start=1):
            if number == 1:
                check_mark(line, f"{path}, line 1")
            rows.append(parse_row(line, keys, f"{path}, line {number}"))
    return rows


def check_mark(content: bytes, location: str) -> None:
    """Refuse a byte-order mark, which some editors put before a text.

    Raises:
        ValueError: naming what to do.
    """
    if content.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):
        raise ValueError(f"{location} begins with a byte-order mark; save the file as UTF-8 without one")


def parse_row(line: bytes, keys: Sequence[str], location: str) -> JsonRow:
    """The object that a line holds.

    Raises:
        ValueError: if it is not a JSON object that has all of `keys`.
    """
    try:
        row: object = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{location} is not JSON ({error}); was the download cut short? Fetch the file again"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{location} is a JSON {type(row).__name__}, not an object; write one {{...}} a line"
        )
    fields = cast("JsonRow", row)
    missing = [key for key in keys if key not in fields]
    if missing:
        raise ValueError(
            f"{location} lacks the key {missing[0]!r} (it has {sorted(fields)}); add or rename it"
        )
    return fields


def rows_hash(rows: Iterable[Sequence[str]]) -> str:
    r"""sha256 of rows of text, in order, each as one line of canonical JSON.

    Equal rows have equal hashes, whatever file or server they came from.

    >>> from hashlib import sha256
    >>> rows_hash([("a", "b"), ("c", "é")]) == sha256(b'["a","b"]\n["c","\\u00e9"]\n').hexdigest()
    True
    """
    digest = sha256()
    for row in rows:
        digest.update(json.dumps(list(row), separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()
