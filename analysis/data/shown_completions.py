"""The training completions that a run shows, with the weights of their tokens.

Since version 0.2.0 they are lines of `credit.jsonl`; before, each step had a file in `credit/`.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from analysis.data.schema import JsonObject
from mirrorpo.run.folder import RunFolder, step_of

STEP = re.compile(rb'\{"step": (\d+)')


def shown_steps(run: Path) -> list[int]:
    """The steps of which completions are there."""
    return sorted({*_files(run), *(step for step, _ in _lines(run))})


def shown_completions(run: Path, steps: Collection[int]) -> Iterator[tuple[int, JsonObject]]:
    """The steps and rows of some steps, in order.

    Raises:
        ValueError: naming the file, if a row of theirs is damaged.
    """
    files = _files(run)
    for step in sorted(files.keys() & set(steps)):
        for line in files[step].read_bytes().splitlines():
            yield step, _row(files[step], line)
    for step, line in _lines(run):
        if step in steps and step not in files:
            yield step, _row(RunFolder(run).credit.path, line)


def _files(run: Path) -> dict[int, Path]:
    return {step_of(path): path for path in (run / "credit").glob("step_*.jsonl")}


def _lines(run: Path) -> Iterator[tuple[int, bytes]]:
    # The step stands first, so that a line need not be parsed for it.
    path = RunFolder(run).credit.path
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and (match := STEP.match(line)):
                yield int(match[1]), line


def _row(path: Path, line: bytes) -> JsonObject:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path} has a line that is not JSON ({error})") from error
