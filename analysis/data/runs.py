"""Run folders."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.data.column_map import ColumnMap
from analysis.data.file_faults import file_faults, lost_digests, order_fault
from analysis.data.json_table import json_lines
from analysis.data.later_sets import later_sets, with_metrics
from analysis.data.schema import JsonObject, empty_metrics, metrics_table, questions_table, run_row
from mirrorpo.run.folder import EVALUATED, run_folders
from mirrorpo.run.manifest import read_manifest

# Of two equal runs they differ, so that they stand in the timings.
DEVICE_SECONDS, ENERGY = "budget/device_s", "budget/energy_j"
TIMED = (DEVICE_SECONDS, ENERGY)
# Settings that tables count with.
COUNTED = ("seed", "steps", "eval_questions")


@dataclass(frozen=True)
class RunTables:
    """One run as an export takes it.

    Attributes:
        row: of `runs`.
        metrics: a row a step.
        questions: the rows of all its evaluations; None where it has none, or they were not read.
        columns: by which somebody else's run was read; None of a run with a manifest.
    """

    row: JsonObject
    metrics: pa.Table
    questions: pa.Table | None
    columns: ColumnMap | None = None


def read_rows(path: Path) -> list[JsonObject]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_metrics(run: Path) -> pd.DataFrame:
    """A run's metrics, one row a step.

    Raises:
        ValueError: if the run has none.
    """
    if not (run / "metrics.jsonl").exists():
        raise ValueError(f"{run} has no metrics.jsonl: it evaluated and trained nothing")
    return pd.DataFrame(read_rows(run / "metrics.jsonl")).set_index("step")


def manifests(root: Path) -> list[Path]:
    """The manifests below a folder, those in W&B's own folders left out."""
    return [run / "manifest.json" for run in run_folders(root) if "wandb" not in run.relative_to(root).parts]


def _metrics(path: Path) -> tuple[pa.Table, list[str]]:
    """The metrics of a file, and what is wrong with the order of its rows."""
    rows = json_lines(path)
    if rows is None:
        return empty_metrics(), []
    try:
        return metrics_table(rows), list(order_fault(rows["step"].to_pylist()))
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} has rows without a step, or values that are no numbers ({error})"
        ) from error


def _with_timed_budget(metrics: pa.Table, path: Path) -> pa.Table:
    """The metrics with what the run's timings say of its budget, step by step."""
    # Rows of timings are as many as of metrics, and of older versions they say nothing of it.
    if not path.exists() or f'"{DEVICE_SECONDS}"'.encode() not in path.read_bytes():
        return metrics
    try:
        rows = json_lines(path)
    except ValueError as error:
        print(f"note: {error}; the run has no {DEVICE_SECONDS}", file=sys.stderr)
        return metrics
    if rows is None or "step" not in rows.column_names:
        return metrics
    steps = metrics["step"].to_pylist()
    for name in TIMED:
        if name in rows.column_names:
            by_step = dict(zip(rows["step"].to_pylist(), rows[name].to_pylist(), strict=True))
            column = pa.array([by_step.get(step) for step in steps], pa.float64())
            metrics = metrics.append_column(name, column)
    return metrics_table(metrics)


def from_folders(root: Path, *, questions: bool = True) -> Iterator[RunTables]:
    """Every run below a folder: its row, metrics and answers.

    One that cannot be read is a failed run with its reason.

    Raises:
        ValueError: if there is no run.
    """
    paths = manifests(root)
    if not paths:
        raise ValueError(f"{root}: no run below it (a run is a folder with manifest.json)")
    read = [_manifest(path) for path in paths]
    lost = lost_digests([{} if isinstance(made, ValueError) else made for made in read])
    for path, manifest, fault in zip(paths, read, lost, strict=True):
        try:
            if isinstance(manifest, ValueError):
                raise manifest
            tables = _tables(manifest, path, root, questions=questions)
            with_faults(tables.row, [fault] if fault else [])
            yield tables
        except ValueError as error:
            # The others are read; guards name this one and keep it out of the tables.
            print(f"note: {error}", file=sys.stderr)
            yield RunTables(
                _row({"state": "failed", "error": str(error)}, empty_metrics(), path, root),
                empty_metrics(),
                None,
            )


def _manifest(path: Path) -> JsonObject | ValueError:
    # Why one cannot be read is said when its run's turn comes.
    try:
        return read_manifest(path)
    except ValueError as error:
        return error


def _tables(manifest: JsonObject, path: Path, root: Path, *, questions: bool) -> RunTables:
    config = manifest.get("config") or {}
    for name in COUNTED:
        if not isinstance(config.get(name, 0), int):
            raise ValueError(f"{path}: its config has {name}={config[name]!r}, which is no whole number")
    rows, misordered = _metrics(path.parent / "metrics.jsonl")
    metrics = _with_timed_budget(rows, path.parent / "timings.jsonl")
    row = _row(manifest, metrics, path, root)
    with_faults(row, [*file_faults(path.parent, manifest, answers=questions), *misordered])
    later = later_sets(path.parent / EVALUATED, questions=questions)
    if later:
        sets = {**json.loads(row["sets"] or "{}"), **{of_run.name: of_run.record for of_run in later}}
        row["sets"] = json.dumps(sets, sort_keys=True)
    own = [evaluations(path.parent / "eval")] if questions else []
    answers = [table for table in (*own, *(of_run.questions for of_run in later)) if table is not None]
    return RunTables(row, with_metrics(metrics, later), pa.concat_tables(answers) if answers else None)


def _row(manifest: JsonObject, metrics: pa.Table, path: Path, root: Path) -> JsonObject:
    folder = path.parent
    run = manifest.get("wandb_id") or manifest.get("config_hash") or str(folder.relative_to(root))
    nested = len(folder.relative_to(root).parts) > 1
    sweep = str(folder.parents[1].relative_to(root.parent)) if nested else root.name
    row = run_row(manifest, metrics, run=str(run), sweep=sweep, came_from="folder", source=str(folder))
    seed = folder.name.removeprefix("seed=")
    if row["seed"] is None and seed.isdigit():
        # A run that is planned has no config yet; its folder says for which seed.
        row["seed"] = int(seed)
    return row


def with_faults(row: JsonObject, faults: list[str]) -> None:
    """Add to what contradicted a run when it was read."""
    if faults:
        row["faults"] = json.dumps([*json.loads(row["faults"] or "[]"), *faults])


def evaluations(folder: Path) -> pa.Table | None:
    """The rows of all `step_*.jsonl` in a folder, by step, then those of each set's folder below it."""
    paths = [*sorted(folder.glob("step_*.jsonl")), *sorted(folder.glob("*/step_*.jsonl"))]
    tables = [
        questions_table(
            table,
            step=int(path.stem.split("_")[1]),
            of_set="" if path.parent == folder else path.parent.name,
        )
        for path in paths
        if (table := json_lines(path)) is not None
    ]
    return pa.concat_tables(tables) if tables else None
