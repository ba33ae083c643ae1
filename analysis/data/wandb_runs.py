"""Runs on W&B: a project's full histories, and the files of offline runs.

`mirrorpo.run.tracking` mirrors the metrics as history, the settings as config, the manifest as the file
`provenance.json` and the evaluations as `eval/step_*.jsonl`, those of further sets in folders below `eval`.
A run without that file was logged by something else, or before there was one; it is exported with what W&B
knows, read by a column map, and the guards say what it lacks.
"""

import json
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.data.column_map import ColumnMap, guessed
from analysis.data.file_faults import file_faults
from analysis.data.manifest_faults import manifest_faults
from analysis.data.runs import RunTables, evaluations
from analysis.data.schema import Json, JsonObject, rows_table, run_row
from mirrorpo.config.identity import flat

# W&B's names for the states of a run, and a manifest's.
STATES = {
    "finished": "done",
    "failed": "failed",
    "crashed": "failed",
    "killed": "failed",
    "running": "running",
    "preempted": "requeued",
}
# LevelDB's log format: the size of a block, and the kinds of a chunk.
BLOCK = 32768
COMPLETE, FIRST, LAST = 1, 2, 4
# The header of the file, and of each chunk.
HEADER = 7
PAGE = 1000
# An evaluation's rows, of the run's own set or of another one.
ANSWERS = re.compile(r"eval/([^/]+/)?step_\d+\.jsonl")


def from_project(
    project: str, filters: Json, *, columns: Json, questions: bool = True
) -> Iterator[RunTables]:
    """Every run of `entity/project` that the filters leave, with its full history.

    `run.history()` samples 500 rows; `scan_history` reads them all, and the guards compare their number
    with the configured steps.

    Raises:
        ValueError: if there is no such project, no such run, or W&B cannot be reached.
    """
    import wandb

    try:
        runs = list(wandb.Api(timeout=60).runs(project, filters=dict(filters)))
    except Exception as error:
        raise ValueError(
            f"wandb:{project}: {type(error).__name__}: {error}. "
            "Check entity/project, the filters, WANDB_API_KEY and WANDB_BASE_URL"
        ) from error
    if not runs:
        which = f" with {json.dumps(dict(filters))}" if filters else ""
        raise ValueError(f"wandb:{project}: no run{which}")
    for run in runs:
        rows = [_row(row) for row in run.scan_history(page_size=PAGE)]
        with tempfile.TemporaryDirectory() as folder:
            for file in run.files():
                if file.name == "provenance.json" or (questions and ANSWERS.fullmatch(file.name)):
                    file.download(root=folder, replace=True).close()
            config = {key: value for key, value in run.config.items() if key != "_wandb"}
            state = STATES.get(str(run.state), str(run.state))
            logged = LoggedRun(
                run_id=run.id, name=run.name, rows=rows, config=config, state=state, files=Path(folder)
            )
            yield logged.tables(
                "wandb", f"wandb:{project}/{run.id}", sweep=project, columns=columns, questions=questions
            )


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What W&B knows of a run.

    Attributes:
        run_id: W&B's.
        name: what it is called.
        rows: of its history, each with its step.
        config: the settings.
        state: as a manifest names it.
        files: the folder of what the run uploaded; None where only tables are left of it.
        every_step: whether the rows are all that there were.
    """

    run_id: str
    name: str
    rows: list[JsonObject]
    config: Json
    state: str
    files: Path | None
    every_step: bool = True

    def tables(self, came_from: str, source: str, *, sweep: str, columns: Json, questions: bool) -> RunTables:
        """The run as an export takes it.

        Args:
            came_from: column of `runs`.
            source: column of `runs`.
            sweep: what the sweep of somebody else's run is called.
            columns: what a map says of the columns of somebody else's run.
            questions: whether answers are read.
        """
        path = None if self.files is None else self.files / "provenance.json"
        if self.files is None or path is None or not path.exists():
            return self._without_manifest(came_from, source, sweep, columns)
        manifest = json.loads(path.read_text())
        faults = file_faults(self.files, manifest, answers=questions, complete=False)
        faults += manifest_faults(manifest)
        if manifest.get("state") == "running" and self.state != "done":
            # The copy was made while the run ran; W&B knows how it ended.
            manifest["state"] = self.state
        metrics = rows_table(self.rows)
        sweep = str(self.config.get("name"))
        row = run_row(manifest, metrics, run=self.run_id, sweep=sweep, came_from=came_from, source=source)
        row["faults"] = json.dumps(faults) if faults else None
        return RunTables(row, metrics, evaluations(self.files / "eval") if questions else None)

    def _without_manifest(self, came_from: str, source: str, sweep: str, columns: Json) -> RunTables:
        settings = flat(self.config)
        read_as = self.column_map(columns)
        suite = read_as.trainer == "mirrorpo"
        metrics = rows_table(read_as.rows(self.rows))
        manifest = {
            "state": self.state,
            "config": self.config if suite else read_as.kept(settings),
            "choices": read_as.choices(settings, self.name),
        }
        row = run_row(manifest, metrics, run=self.run_id, sweep=sweep, came_from=came_from, source=source)
        row["seed"] = read_as.seed_of(settings, self.name)
        if not (suite and self.every_step):
            # How many rows another trainer, or a table, should have is not known.
            row["rows_expected"] = None
        return RunTables(row, metrics, None, read_as)

    def column_map(self, columns: Json) -> ColumnMap:
        """What each column is, of a run that brings no manifest."""
        return guessed(flat(self.config), {name for row in self.rows for name in row}, columns)


@dataclass
class Segment:
    """What one offline run file says; a resumed run leaves several.

    Attributes:
        exit_code: None as long as nothing ended the run.
    """

    path: Path
    run_id: str = ""
    name: str = ""
    config: JsonObject = field(default_factory=dict)
    rows: list[JsonObject] = field(default_factory=list)
    exit_code: int | None = None


def from_files(root: Path, *, columns: Json, questions: bool = True) -> Iterator[RunTables]:
    """Every offline run below a folder, its segments joined; a step that two have is the later one's.

    Raises:
        ValueError: if there is none, or a file is not what it should be.
    """
    segments: dict[str, list[Segment]] = {}
    for path in sorted(root.rglob("run-*.wandb"), key=lambda path: (path.parent.name, str(path))):
        segment = read_segment(path)
        # A process that was killed at its start leaves a file that holds no run.
        if segment.run_id:
            segments.setdefault(segment.run_id, []).append(segment)
    if not segments:
        raise ValueError(f"{root}: no W&B run file (run-*.wandb) with a run below it")
    for run_id, of_run in segments.items():
        last = of_run[-1]
        state = {None: "running", 0: "done"}.get(last.exit_code, "failed")
        by_step = {row["step"]: row for segment in of_run for row in segment.rows}
        rows = [by_step[step] for step in sorted(by_step)]
        logged = LoggedRun(
            run_id=run_id,
            name=last.name,
            rows=rows,
            config=last.config,
            state=state,
            files=last.path.parent / "files",
        )
        yield logged.tables(
            "wandb offline", str(last.path), sweep=root.name, columns=columns, questions=questions
        )


def _row(logged: Json) -> JsonObject:
    kept = {key: value for key, value in logged.items() if not key.startswith("_") and value is not None}
    return {"step": int(logged["_step"]), **kept}


def read_segment(path: Path) -> Segment:
    """One `.wandb` file; a tail that a kill tore off is left out.

    Raises:
        ValueError: if it is no such file.
    """
    # Generated code, which has its classes at run time only.
    from wandb.proto import wandb_internal_pb2

    out = Segment(path)
    for payload in records(path):
        record = wandb_internal_pb2.Record.FromString(payload)  # pyright: ignore[reportAttributeAccessIssue]
        kind = record.WhichOneof("record_type")
        if kind == "run":
            out.run_id, out.name = record.run.run_id, record.run.display_name
            out.config |= _settings(record.run.config)
        elif kind == "config":
            # What a trainer adds after the run has begun, as transformers' callback does.
            out.config |= _settings(record.config)
        elif kind == "history":
            items = record.history.item
            logged = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            out.rows.append(_row(logged))
        elif kind == "exit":
            out.exit_code = record.exit.exit_code
    return out


def _settings(record: Any) -> JsonObject:
    # A protobuf message of generated code.
    items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.update}
    return {key: value for key, value in items.items() if key.partition(".")[0] != "_wandb"}


def records(path: Path) -> Iterator[bytes]:
    """Payloads of a file in LevelDB's log format: a header, then chunks that never cross a block.

    References:
        LevelDB, doc/log_format.md
    """
    data = path.read_bytes()
    if data[:4] not in (b"", b":W&B"):
        raise ValueError(f"{path} is no W&B run file: it begins with {data[:4]!r}")
    offset, payload = HEADER, b""
    while offset + HEADER <= len(data):
        room = BLOCK - offset % BLOCK
        if room < HEADER:
            offset += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, offset)
        chunk = data[offset + HEADER : offset + HEADER + size]
        if kind == 0 or len(chunk) < size:
            # Padding up to the next block, or a torn tail.
            offset += room
            continue
        offset += HEADER + size
        payload = chunk if kind in (COMPLETE, FIRST) else payload + chunk
        if kind in (COMPLETE, LAST):
            yield payload
