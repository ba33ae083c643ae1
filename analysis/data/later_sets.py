"""Evaluations that were made of a done run's checkpoints, set by set, in `evaluated/` of its folder.

Each set has `step_*.jsonl`, `metrics.jsonl` with a row for each step that counts, and `evaluation.json`,
which says what its numbers depend on.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from analysis.data.json_table import json_lines
from analysis.data.schema import JsonObject, metrics_table, of_set, questions_table


@dataclass(frozen=True)
class LaterSet:
    """One set's evaluations.

    Attributes:
        name: of the set.
        record: what its numbers depend on.
        metrics: a row a step.
        questions: the rows of these steps; None where they were not read.
    """

    name: str
    record: JsonObject
    metrics: pa.Table
    questions: pa.Table | None


def later_sets(folder: Path, *, questions: bool) -> list[LaterSet]:
    """The sets that were evaluated after a run; one that cannot be read is left out with a note."""
    out: list[LaterSet] = []
    for path in sorted(folder.glob("*/evaluation.json")):
        try:
            read = _later_set(path.parent, questions=questions)
        except (ValueError, KeyError, pa.ArrowException) as error:
            print(f"note: {path.parent} is left out: {error}", file=sys.stderr)
            continue
        out += [read] if read is not None else []
    return out


def _later_set(folder: Path, *, questions: bool) -> LaterSet | None:
    rows = json_lines(folder / "metrics.jsonl")
    if rows is None:
        return None
    metrics = metrics_table(rows)
    answers: list[pa.Table] = []
    for step in metrics["step"].to_pylist() if questions else ():
        table = json_lines(folder / f"step_{step:06d}.jsonl")
        answers += [] if table is None else [questions_table(table, step, folder.name)]
    record = of_set(json.loads((folder / "evaluation.json").read_bytes()))
    return LaterSet(folder.name, record, metrics, pa.concat_tables(answers) if answers else None)


def with_metrics(metrics: pa.Table, later: Sequence[LaterSet]) -> pa.Table:
    """A run's metrics with those of its later sets; a step that the run has no row of gets one."""
    out = metrics
    for of_run in later:
        known = [name for name in of_run.metrics.column_names if name not in out.column_names]
        out = out.join(of_run.metrics.select(["step", *known]), "step", join_type="full outer")
    return metrics_table(out.sort_by("step")) if later else metrics
