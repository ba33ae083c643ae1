"""Run folders."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.json
import yaml

from analysis.data.column_map import ColumnMap
from analysis.data.later import with_later_metrics
from analysis.data.schema import JsonObject, empty_metrics, metrics_table, questions_table, run_row
from mirrorpo.run.folder import EVALUATED, run_folders
from mirrorpo.run.manifest import read_manifest


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


class SweepCommand(TypedDict):
    """What was typed for a grid.

    Attributes:
        folder: of the grid.
        typed: overrides of the command line.
        written: overrides that stand in the sweep's file and were not typed.
    """

    folder: str
    typed: list[str]
    written: list[str]


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


def json_lines(path: Path) -> pa.Table | None:
    """A JSON lines file as a table; None where nothing is. A last line that a kill tore off is left out.

    Raises:
        ValueError: naming the file, if a complete line is not JSON.
    """
    data = path.read_bytes() if path.exists() else b""
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        return None
    try:
        return pyarrow.json.read_json(
            io.BytesIO(data), read_options=pyarrow.json.ReadOptions(block_size=max(len(data), 1))
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} has a line that is not JSON ({error}): move the run's folder away and run it again"
        ) from error


def _metrics(path: Path) -> pa.Table:
    rows = json_lines(path)
    if rows is None:
        return empty_metrics()
    try:
        return metrics_table(rows)
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} has rows without a step, or values that are no numbers ({error})"
        ) from error


def from_folders(root: Path, *, questions: bool = True) -> Iterator[RunTables]:
    """Every run below a folder: its row, metrics and answers.

    One that cannot be read is a failed run with its reason.

    Raises:
        ValueError: if there is no run.
    """
    paths = manifests(root)
    if not paths:
        raise ValueError(f"{root}: no run below it (a run is a folder with manifest.json)")
    for path in paths:
        try:
            yield _tables(path, root, questions=questions)
        except ValueError as error:
            # The others are read; guards name this one and keep it out of the tables.
            print(f"note: {error}", file=sys.stderr)
            yield RunTables(
                _row({"state": "failed", "error": str(error)}, empty_metrics(), path, root),
                empty_metrics(),
                None,
            )


def _tables(path: Path, root: Path, *, questions: bool) -> RunTables:
    manifest = read_manifest(path)
    metrics = with_later_metrics(_metrics(path.parent / "metrics.jsonl"), path.parent)
    answers = evaluations(path.parent / "eval", path.parent / EVALUATED) if questions else None
    return RunTables(_row(manifest, metrics, path, root), metrics, answers)


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


def evaluations(*folders: Path) -> pa.Table | None:
    """The rows of all `step_*.jsonl` in some folders, by step."""
    tables = [
        (int(path.stem.split("_")[1]), table)
        for folder in folders
        for path in sorted(folder.glob("step_*.jsonl"))
        if (table := json_lines(path)) is not None
    ]
    return pa.concat_tables([questions_table(table, step) for step, table in tables]) if tables else None


def sweep_commands(root: Path) -> list[SweepCommand]:
    """What was typed for each grid below a folder, from Hydra's `multirun.yaml`.

    A command that is typed again, for other cells of the same name, takes the place of the one before.
    """
    out: list[SweepCommand] = []
    for path in sorted(root.rglob("multirun.yaml")):
        hydra = yaml.safe_load(path.read_text()).get("hydra") or {}
        typed = list((hydra.get("overrides") or {}).get("task") or [])
        named = {override.split("=")[0] for override in typed}
        params = (hydra.get("sweeper") or {}).get("params") or {}
        written = [f"{key}={value}" for key, value in params.items() if key not in named]
        out.append({"folder": str(path.parent), "typed": typed, "written": written})
    return out
