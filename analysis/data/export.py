"""Exports: runs, metrics and questions of a sweep in one schema, with where they came from."""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, parquet

from analysis.data.commands import SweepCommand, sweep_commands, with_run_commands
from analysis.data.plans import RecordedPlan, plan_faults, recorded_plans
from analysis.data.runs import RunTables, from_folders, manifests
from analysis.data.schema import (
    AXES,
    QUESTIONS,
    READABLE,
    RUNS,
    VERSION,
    Json,
    JsonObject,
    joined,
    runs_table,
    with_columns,
)
from analysis.data.selections import RecordedSelection, recorded_selections
from mirrorpo.config.identity import digest
from mirrorpo.config.paths import code
from mirrorpo.run.disk import file_digest
from mirrorpo.run.provenance import taken_from

FILES = ("runs", "metrics", "questions")
ABOUT = "export.json"
# Of `export.json`.
DIGESTS = "sha256"
COLUMNS = ("run", "step")
# The metric that every evaluation set has, between its prefix and its name the set's.
OF_SET = re.compile(r"eval/([^/]+)/greedy_accuracy")
# Counts that are logged where they are not 0.
COUNTS = "outcome/"
# Rows that W&B's `history()` returns of a longer run.
SAMPLED = 500
# A pandas data frame; its own annotations take each of its columns for a scalar.
Frame = Any


@dataclass(frozen=True)
class Export:
    """The three tables of `analysis.data.schema`, and how they were made.

    Attributes:
        runs, metrics, questions: as the schema says; runs in the order of cell and seed.
        about: source, time, command, commit of the exporter, and what was typed for the sweep.
        faults: what in the files that it was read from is not what `write` wrote.
    """

    runs: pa.Table
    metrics: pa.Table
    questions: pa.Table
    about: Json
    faults: Sequence[str] = ()

    @cached_property
    def records(self) -> list[JsonObject]:
        """The rows of `runs`, what is missing as None."""
        return self.runs.to_pylist()

    @cached_property
    def commands(self) -> Sequence[SweepCommand]:
        """What was typed for the grids, every launch; none where the runs were not of a sweep."""
        return with_run_commands(self.about.get("asked", []), self.records)

    @property
    def plans(self) -> Sequence[RecordedPlan]:
        """What launches recorded as planned, the first of each sweep first."""
        return self.about.get("plans", [])

    @property
    def edited(self) -> Sequence[str]:
        """What is not what was written: of these files, and of what launches recorded."""
        return [*self.faults, *plan_faults(self.plans)]

    @property
    def selections(self) -> Sequence[RecordedSelection]:
        """How settings were chosen, as launches recorded it."""
        return self.about.get("selections", [])

    @property
    def notes(self) -> Sequence[str]:
        """How runs without a manifest were read, and what cannot be known of them."""
        written, sealed = "schema" in self.about, DIGESTS in self.about
        unknown = ["export.json has no digests: whether a file was edited is not known"]
        return [*self.about.get("notes", []), *(unknown if written and not sealed else [])]

    @property
    def names(self) -> list[str]:
        """The metrics there are."""
        return [name for name in self.metrics.column_names if name not in COLUMNS]

    def metric(self, *names: str) -> Frame:
        """run, step and some metrics, where at least one has a value; a metric that no run has is all NaN.

        A step that has some outcome and not another one has had none of the other: 0.
        """
        present = [name for name in names if name in self.metrics.column_names]
        out = self.metrics.select([*COLUMNS, *present]).to_pandas()
        out["run"] = out["run"].astype(str)
        if counts := [name for name in present if name.startswith(COUNTS)]:
            out.loc[self._counted, counts] = out.loc[self._counted, counts].fillna(0.0)
        return (
            out.reindex(columns=[*COLUMNS, *names])
            .dropna(subset=list(names), how="all")
            .reset_index(drop=True)
        )

    @cached_property
    def _counted(self) -> NDArray[np.bool_]:
        """By row of `metrics`, whether it has some outcome."""
        names = [name for name in self.names if name.startswith(COUNTS)]
        return self.metrics.select(names).to_pandas().notna().any(axis=1).to_numpy()

    @cached_property
    def sets(self) -> list[str]:
        """The evaluation sets beside the runs' own, by name."""
        of_metrics = (match[1] for name in self.names if (match := OF_SET.fullmatch(name)))
        of_answers = self.questions["set"].unique().drop_null().to_pylist()
        return sorted({*of_metrics, *of_answers})

    def answers(self, *columns: str, of_set: str = "") -> Frame:
        """run, step, uid and some columns of an evaluation set's questions; "" is the runs' own set."""
        column = compute.field("set")
        rows = column == of_set if of_set else column.is_null()
        table = self.questions.select([*COLUMNS, "uid", *columns, "set"])
        out = table.filter(rows).drop_columns("set").to_pandas()
        out["run"] = out["run"].astype(str)
        return out

    def write(self, folder: Path) -> None:
        """Three Parquet files, and `export.json` about them, with the digests of all four.

        Raises:
            ValueError: if what was read is not what was written, which new digests would hide.
        """
        if self.faults:
            raise ValueError("; ".join(self.faults))
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            table = getattr(self, name)
            parquet.write_table(table, folder / f"{name}.parquet", compression="zstd")
        counts = {name: getattr(self, name).num_rows for name in FILES}
        about = {**self.about, "schema": VERSION, "rows": counts}
        about[DIGESTS] = digests(folder, about)
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")

    @staticmethod
    def read(folder: Path) -> "Export":
        """What `write` left in a folder.

        Raises:
            ValueError: if another version of the schema wrote it, or a file is missing or damaged.
        """
        names = [ABOUT, *(f"{name}.parquet" for name in FILES)]
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(
                f"{folder}: an export without {', '.join(missing)}; copy all of {', '.join(names)}, or "
                "export again"
            )
        about = _about(folder / ABOUT)
        if about.get("schema") not in READABLE:
            raise ValueError(
                f"{folder}: schema {about.get('schema')}, and this package reads "
                f"{' and '.join(map(str, READABLE))}: export again"
            )
        runs, metrics, questions = (_table(folder / f"{name}.parquet") for name in FILES)
        return Export(
            with_columns(runs, RUNS),
            metrics,
            with_columns(questions, QUESTIONS),
            about=about,
            faults=_faults(folder, about),
        )


def digests(folder: Path, about: Json) -> dict[str, str]:
    """sha256 of an export's tables, by file, and of what stands beside them in `export.json`."""
    rest = {name: value for name, value in about.items() if name != DIGESTS}
    tables = {f"{name}.parquet": file_digest(folder / f"{name}.parquet") for name in FILES}
    return {**tables, ABOUT: digest(json.loads(json.dumps(rest)))}


def _faults(folder: Path, about: Json) -> list[str]:
    # One of an older version has no digests, and contradicts none.
    recorded = about.get(DIGESTS)
    if recorded is None:
        return []
    return [
        f"{folder / name} is not what the export wrote: take it from a copy, or export the runs again"
        for name, now in digests(folder, about).items()
        if recorded.get(name) != now
    ]


def is_export(folder: Path) -> bool:
    """Whether `write` left something in a folder, be it whole or not."""
    return (folder / ABOUT).is_file() or all((folder / f"{name}.parquet").is_file() for name in FILES)


def _about(path: Path) -> Json:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read as JSON ({error}); copy it anew, or export again"
        ) from error
    if not isinstance(about, dict):
        raise ValueError(f"{path}: is not what an export leaves; copy it anew, or export again")
    return about


def _table(path: Path) -> pa.Table:
    try:
        return parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: cannot be read as Parquet ({error}); copy it anew, or export again"
        ) from error


def assembled(
    runs: Iterable[RunTables],
    source: str,
    commands: Sequence[SweepCommand] = (),
    plans: Sequence[RecordedPlan] = (),
    selections: Sequence[RecordedSelection] = (),
) -> Export:
    """The export of runs that were read one by one, in the order of their cells and seeds.

    Args:
        runs: in any order; the second run of an id gets another one.
        source: where they are.
        commands: what was typed for their grids.
        plans: what their launches recorded as planned.
        selections: how their settings were chosen.
    """
    read = sorted(runs, key=lambda run: str(run.row["source"]))
    notes = _notes(read)
    counts: Counter[str] = Counter()
    for run in read:
        # Two folders may hold runs of one id, a copy for instance; their numbers must not run together.
        name = run.row["run"]
        counts[name] += 1
        run.row["run"] += f"#{counts[name]}" if counts[name] > 1 else ""
    read.sort(
        key=lambda run: (
            *(str(run.row[key]) for key in ("sweep", *AXES, "settings")),
            run.row["seed"] or 0,
            run.row["run"],
        )
    )
    answered = ((run.row["run"], run.questions) for run in read if run.questions is not None)
    return Export(
        runs=runs_table([run.row for run in read]),
        metrics=joined((run.row["run"], run.metrics) for run in read),
        questions=joined(answered, QUESTIONS),
        about={
            "source": source,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": this_command(),
            "commit": commit(),
            "asked": list(commands),
            **({"plans": list(plans)} if plans else {}),
            **({"selections": list(selections)} if selections else {}),
            **({"notes": notes} if notes else {}),
        },
    )


def _notes(runs: Sequence[RunTables]) -> list[str]:
    # What is guessed of, and what is missing from, runs that bring no manifest.
    strangers = [run for run in runs if run.columns is not None]
    kinds = Counter((run.columns.trainer, str(run.columns)) for run in strangers if run.columns is not None)
    out = [
        f"{count} runs without a manifest{f' ({trainer})' if trainer else ''} are read as: {columns}"
        for (trainer, columns), count in kinds.items()
    ]
    if strangers:
        out.append(
            "they have no answers question by question: intervals are for new seeds alone (Student's t)"
        )
    if once := [run for run in strangers if run.metrics.num_rows == 1]:
        out.append(f"{len(once)} of them have one row: last values, and no curve")
    if sampled := [run for run in strangers if run.metrics.num_rows == SAMPLED]:
        out.append(
            f"{len(sampled)} of them have {SAMPLED} rows, which is where run.history() samples: "
            "scan_history() has them all"
        )
    return out


def this_command() -> list[str]:
    """The command that runs, as it may be given on any machine."""
    return ["python", "-m", "analysis", *sys.argv[1:]]


def commit() -> str | None:
    """This package's own commit, with "+" where the tree differs from it."""
    made = taken_from(code())
    return made["commit"] and made["commit"] + ("+" if made["dirty"] else "")


def load(
    source: str,
    *,
    filters: Json | None = None,
    offline: bool = False,
    questions: bool = True,
    columns: Json | None = None,
) -> Export:
    """An export from wherever runs lie.

    Args:
        source: a folder of run folders, a folder that `write` filled, W&B offline files, tables that W&B's
            page or its client wrote, a folder of them, or `entity/project` on W&B.
        filters: of W&B runs, in W&B's query language.
        offline: read the W&B files even where run folders lie around them.
        questions: read the answers too.
        columns: what the columns of runs without a manifest are (`column_map.read_map`); what it leaves out
            is guessed.

    Raises:
        ValueError: if there is nothing to read, saying what was looked for.
    """
    path, given = Path(source), columns or {}
    if not path.exists() and (Path("outputs") / source).exists():
        path = Path("outputs") / source
    if path.is_dir() and is_export(path):
        return Export.read(path)
    if not path.exists():
        if source.count("/") != 1:
            raise ValueError(f"{source}: neither a folder (nor outputs/{source}) nor entity/project on W&B")
        from analysis.data.wandb_runs import from_project

        runs = from_project(source, filters or {}, columns=given, questions=questions)
        return assembled(runs, f"wandb:{source}")
    if not offline and path.is_dir() and manifests(path):
        runs = from_folders(path, questions=questions)
        return assembled(
            runs, str(path), sweep_commands(path), recorded_plans(path), recorded_selections(path)
        )
    if offline or list(path.rglob("*.wandb")):
        from analysis.data.wandb_runs import from_files

        runs = from_files(path, columns=given, questions=questions)
        return assembled(runs, f"{path} (W&B offline files)")
    from analysis.data.wandb_tables import from_tables

    return assembled(from_tables(path, columns=given), str(path))
