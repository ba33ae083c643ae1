"""Append-only files of JSON objects, read and cut line by line. Imports no torch."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mirrorpo.config.values import JsonObject
from mirrorpo.run.disk import copy_aside, replacing, writing_to
from mirrorpo.run.errors import RunError

# How much of a file's end is read for its last rows at first.
TAIL_BYTES = 16 * 1024


class JsonLines:
    """An append-only file of one JSON object a line, cut back to a step when a run resumes.

    A last line without its end is what a kill left of a row, and is none. A file may be longer than what
    memory holds, so whoever needs no more than a row at a time takes `stream` or `numbered`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stream(self) -> Iterator[JsonObject]:
        """The complete rows, one after another.

        Raises:
            RunError: naming the file and the line, if one is damaged.
        """
        for number, line in self._lines():
            if (row := _json_object(line)) is None:
                raise RunError(
                    f"{self.path}: line {number} is damaged; move the run's folder away, or launch it again"
                )
            yield row

    def rows(self) -> list[JsonObject]:
        """The complete rows, all of them.

        Raises:
            RunError: naming the file and the line, if one is damaged.
        """
        return list(self.stream())

    def numbered(self) -> Iterator[tuple[int, JsonObject | None]]:
        """The number of each line from 1 on, with its row; None for a line that is damaged or has no step.

        Raises:
            RunError: if the file cannot be read at all.
        """
        for number, line in self._lines():
            yield number, _row(line)

    def damaged(self) -> list[int]:
        """The numbers of the lines that are damaged or have no step."""
        return [number for number, row in self.numbered() if row is None]

    def last(self, count: int) -> tuple[list[JsonObject], bool]:
        """The rows of the last `count` lines, and whether one of these lines is damaged.

        Raises:
            RunError: if the file cannot be read at all.
        """
        lines = self._last_lines(count)
        rows = [row for line in lines if (row := _row(line)) is not None]
        return rows, len(rows) < len(lines)

    def cut_after(self, step: int, *, keep: bool = False) -> list[int]:
        """Drop rows of later steps, damaged lines and any unfinished one; the numbers of the damaged ones.

        Args:
            step: the last one that stays.
            keep: keep the file as it is under another name; one that has damaged lines is always kept.
        """
        if not self.path.exists():
            return []
        damaged: list[int] = []
        with replacing(self.path) as cut:
            for number, line in self._lines():
                row = _row(line)
                if row is None:
                    damaged.append(number)
                elif row["step"] <= step:
                    cut.write(line)
            if damaged or keep:
                copy_aside(self.path, "damaged" if damaged else "before_restart")
        return damaged

    def append(self, row: Mapping[str, object]) -> None:
        """Add one row, on disk before a checkpoint of the same step can be.

        Raises:
            DiskError: if there is no room for it, or the like.
        """
        self.extend([row])

    def extend(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows, as `append` does with one.

        Raises:
            DiskError: if there is no room for them, or the like.
        """
        with writing_to(self.path.parent), self.path.open("a") as file:
            file.write("".join(json.dumps(dict(row)) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        # With their ends.
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        yield number, line
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"{self.path} cannot be read ({error})") from error

    def _last_lines(self, count: int) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
                while True:
                    start = max(size - length, 0)
                    file.seek(start)
                    # The first piece may be the end of a line, and the last one is what a kill left of one.
                    complete = file.read(size - start).split(b"\n")[0 if start == 0 else 1 : -1]
                    if start == 0 or len(complete) >= count:
                        return complete[-count:]
                    length *= 4
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self.path} cannot be read ({error})") from error


def _json_object(line: bytes) -> JsonObject | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _row(line: bytes) -> JsonObject | None:
    row = _json_object(line)
    return row if row is not None and type(row.get("step")) is int else None
