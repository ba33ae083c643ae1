"""Exports: runs, metrics and questions of a sweep in one schema, with where they came from."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from analysis.runs import Part, asked_of, from_folders, manifests
from analysis.schema import AXES, QUESTIONS, VERSION, joined, runs_table
from mirrorpo.config.paths import code
from mirrorpo.run.provenance import taken_from

FILES = ("runs", "metrics", "questions")
COLUMNS = ("run", "step")
# A pandas data frame; its own annotations take each of its columns for a scalar.
Frame = Any


@dataclass(frozen=True)
class Export:
    """The three tables of `analysis.schema`, and how they were made.

    Attributes:
        runs, metrics, questions: as the schema says; runs in the order of cell and seed.
        about: source, time, command, commit of the exporter.
    """

    runs: pa.Table
    metrics: pa.Table
    questions: pa.Table
    about: Mapping[str, Any]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The rows of `runs`, what is missing as None."""
        return self.runs.to_pylist()

    @property
    def names(self) -> list[str]:
        """The metrics there are."""
        return [name for name in self.metrics.column_names if name not in COLUMNS]

    def metric(self, *names: str) -> Frame:
        """run, step and some metrics, where at least one has a value; a metric that no run has is all NaN."""
        present = [name for name in names if name in self.metrics.column_names]
        out = self.metrics.select([*COLUMNS, *present]).to_pandas()
        out["run"] = out["run"].astype(str)
        return (
            out.reindex(columns=[*COLUMNS, *names])
            .dropna(subset=list(names), how="all")
            .reset_index(drop=True)
        )

    def answers(self, *columns: str) -> Frame:
        """run, step, uid and some columns of questions."""
        out = self.questions.select([*COLUMNS, "uid", *columns]).to_pandas()
        out["run"] = out["run"].astype(str)
        return out

    def only(self, runs: Iterable[str]) -> "Export":
        """The export of some of its runs; the tables below it keep their other rows."""
        kept = set(runs)
        mask = pa.array([run in kept for run in self.runs["run"].to_pylist()], pa.bool_())
        return Export(self.runs.filter(mask), self.metrics, self.questions, self.about)

    def write(self, folder: Path) -> None:
        """Three Parquet files, and `export.json` about them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            table = getattr(self, name)
            parquet.write_table(table, folder / f"{name}.parquet", compression="zstd")
        counts = {name: getattr(self, name).num_rows for name in FILES}
        (folder / "export.json").write_text(
            json.dumps({**self.about, "schema": VERSION, "rows": counts}, indent=2) + "\n"
        )

    @staticmethod
    def read(folder: Path) -> "Export":
        """What `write` left in a folder.

        Raises:
            ValueError: if another version of the schema wrote it.
        """
        about = json.loads((folder / "export.json").read_text())
        if about.get("schema") != VERSION:
            raise ValueError(
                f"{folder}: schema {about.get('schema')}, and this package reads {VERSION}: export again"
            )
        return Export(*(parquet.read_table(folder / f"{name}.parquet") for name in FILES), about=about)


def assembled(parts: Iterable[Part], source: str, asked: Sequence[Mapping[str, Any]] = ()) -> Export:
    """The export of runs that were read one by one, in the order of their cells and seeds."""
    read = list(parts)
    times: Counter[str] = Counter()
    for row, _, _ in sorted(read, key=lambda part: str(part[0]["source"])):
        # Two folders may hold runs of one id, a copy for instance; their numbers must not run together.
        times[row["run"]] += 1
        row["run"] += f"#{times[row['run']]}" if times[row["run"]] > 1 else ""
    read.sort(
        key=lambda part: (
            *(str(part[0][key]) for key in ("sweep", *AXES, "settings")),
            part[0]["seed"] or 0,
            part[0]["run"],
        )
    )
    about: dict[str, Any] = {
        "source": source,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": this_command(),
        "commit": commit(),
    }
    about["asked"] = list(asked)
    return Export(
        runs=runs_table([row for row, _, _ in read]),
        metrics=joined((row["run"], metrics) for row, metrics, _ in read),
        questions=joined(
            ((row["run"], answers) for row, _, answers in read if answers is not None), QUESTIONS
        ),
        about=about,
    )


def this_command() -> list[str]:
    """The command that runs, as it may be given on any machine."""
    return ["python", "-m", "analysis", *sys.argv[1:]]


def commit() -> str | None:
    """This package's own commit, with "+" where the tree differs from it."""
    made = taken_from(code())
    return made["commit"] and made["commit"] + ("+" if made["dirty"] else "")


def load(
    source: str, *, filters: Mapping[str, Any] | None = None, offline: bool = False, questions: bool = True
) -> Export:
    """An export from wherever runs lie.

    Args:
        source: a folder of run folders, a folder that `write` filled, W&B offline files, or `entity/project`
            on W&B.
        filters: of W&B runs, in its own query language.
        offline: read the W&B files even where run folders lie around them.
        questions: read the answers too.

    Raises:
        ValueError: if there is nothing to read, saying what was looked for.
    """
    path = Path(source)
    if not path.exists() and (Path("outputs") / source).exists():
        path = Path("outputs") / source
    if (path / "runs.parquet").exists():
        return Export.read(path)
    if not path.exists():
        if source.count("/") != 1:
            raise ValueError(f"{source}: neither a folder (nor outputs/{source}) nor entity/project on W&B")
        from analysis.wandb_runs import from_project

        return assembled(from_project(source, filters or {}, questions=questions), f"wandb:{source}")
    if not offline and manifests(path):
        return assembled(from_folders(path, questions=questions), str(path), asked_of(path))
    if offline or list(path.rglob("*.wandb")):
        from analysis.wandb_runs import from_files

        return assembled(from_files(path, questions=questions), f"{path} (W&B offline files)")
    return assembled(from_folders(path), str(path))
