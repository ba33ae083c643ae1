"""Rows of JSON Lines, JSON, CSV, TSV and Parquet files; what is wrong with a row is kept with its line."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from mirrorpo.dataset.jsonl import JsonRow

SHOWN = 10  # kinds of faults, and places of each, that an error lists


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRow:
    """A row with where it stands ("line 3", "row 3"); where it could not be read, why.

    Attributes:
        location: in its file.
        values: by column.
        fault: why there are no values; empty when all is well.
    """

    location: str
    values: JsonRow
    fault: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRows:
    """What a split is read from, and its rows in order."""

    source: str
    rows: Sequence[StoredRow]

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they first appear."""
        return list(dict.fromkeys(str(name) for row in self.rows for name in row.values))


def listed(source: str, faults: Mapping[str, str]) -> str:
    """All faults of a file in a line: up to `SHOWN` kinds, each with up to `SHOWN` places.

    Args:
        source: the file.
        faults: what is wrong, by the place in it.

    Example:
        >>> listed("a.csv", {"line 2": "no gold", "line 5": "no question", "line 9": "no gold"})
        'a.csv, 3 bad rows: line 2, line 9: no gold; line 5: no question'
    """
    kinds: dict[str, list[str]] = {}
    for location, fault in faults.items():
        kinds.setdefault(fault, []).append(location)
    shown = [f"{_up_to(locations, ', ')}: {fault}" for fault, locations in kinds.items()]
    return f"{source}, {len(faults)} bad row{'s' if len(faults) > 1 else ''}: {_up_to(shown, '; ')}"


def _up_to(texts: Sequence[str], separator: str) -> str:
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return separator.join([*texts[:SHOWN], *more])


def read_file(path: Path) -> StoredRows:
    """The rows of a file in order, by its ending; `.gz` is unpacked.

    Raises:
        ValueError: if there is no such file, its ending is not known, or it cannot be read at all.
    """
    reader = READERS.get(form(path))
    if reader is None:
        raise ValueError(
            f"{path}: its ending is none of {', '.join(READERS)} (or these with .gz); rename or convert it"
        )
    if not path.is_file():
        raise ValueError(f"no file {path}; put it there, or correct dataset.source")
    try:
        return StoredRows(source=str(path), rows=list(reader(path)))
    except (OSError, EOFError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); was it cut short, or does its ending lie?"
        ) from error


def form(path: Path) -> str:
    """The ending that says what a file holds.

    >>> form(Path("a/train.jsonl.gz")), form(Path("train.CSV"))
    ('.jsonl', '.csv')
    """
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def plain_rows(values: Iterable[object]) -> Iterator[StoredRow]:
    """Rows of values that have no lines, counted from 1."""
    for number, value in enumerate(values, 1):
        yield _row(f"row {number}", value)


def _row(location: str, value: object) -> StoredRow:
    if isinstance(value, dict):
        return StoredRow(location=location, values=cast("JsonRow", value), fault="")
    fault = f"it is a JSON {type(value).__name__}, not an object; write {{...}}"
    return StoredRow(location=location, values={}, fault=fault)


def _bytes(path: Path) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read()


def _text(path: Path) -> str:
    content = _bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: {_not_utf8(error)}") from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is no UTF-8; save the file as UTF-8"


def _json_lines(path: Path) -> Iterator[StoredRow]:
    # Decoded line by line, so that a bad byte is reported with its line too.
    for number, line in enumerate(_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        location = f"line {number}"
        try:
            value: object = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield StoredRow(location=location, values={}, fault=_not_utf8(error))
            continue
        except ValueError as error:
            # A number of thousands of digits is another error than JSON's own.
            at = (
                f"{error.msg} at character {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else error
            )
            fault = f"it is no JSON ({at}); write an object {{...}} on one line"
            yield StoredRow(location=location, values={}, fault=fault)
            continue
        yield _row(location, value)


def _json(path: Path) -> Iterator[StoredRow]:
    try:
        value: object = json.loads(_text(path))
    except json.JSONDecodeError as error:
        # Several values: JSON Lines under another ending.
        if error.msg == "Extra data":
            return _json_lines(path)
        raise
    if isinstance(value, dict):
        lists = [item for item in cast("JsonRow", value).values() if isinstance(item, list)]
        value = lists[0] if len(lists) == 1 else [value] if not lists else None
    if not isinstance(value, list):
        raise ValueError(
            f"{path}: it holds no list of rows; write [{{...}}, ...], or an object a line in .jsonl"
        )
    return plain_rows(cast("list[object]", value))


def _separated(path: Path, delimiter: str) -> Iterator[StoredRow]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
    header = next(reader, None)
    if not header or len(set(header)) < len(header) or not all(name.strip() for name in header):
        raise ValueError(
            f"{path}, line 1: {header} are no column names; write one for each column, no two alike"
        )
    line = reader.line_num + 1
    for fields in reader:
        row = StoredRow(location=f"line {line}", values=dict(zip(header, fields, strict=False)), fault="")
        line = reader.line_num + 1
        if fields and len(fields) != len(header):
            fault = (
                f"it has {len(fields)} fields and the header {len(header)}; quote a text that holds "
                "the separator or a line break"
            )
            row = replace(row, values={}, fault=fault)
        if fields:
            yield row


def _parquet(path: Path) -> Iterator[StoredRow]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_table

    try:
        return plain_rows(read_table(path).to_pylist())
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file ({error}); fetch it again") from error


Reader: TypeAlias = Callable[[Path], Iterator[StoredRow]]
READERS: Mapping[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": lambda path: _separated(path, ","),
    ".tsv": lambda path: _separated(path, "\t"),
    ".parquet": _parquet,
}
