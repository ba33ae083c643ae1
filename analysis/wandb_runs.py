"""Runs on W&B: a project's full histories, and the files of offline runs.

`mirrorpo.run.tracking` mirrors the metrics as history, the settings as config, the manifest as the file
`provenance.json` and the evaluations as `eval/step_*.jsonl`. A run without that file was logged by
something else, or before there was one; it is exported with what W&B knows, and the guards say so.
"""

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis.runs import Part, evaluations
from analysis.schema import rows_table, run_row

# W&B's words for the states of a run, in ours.
STATES = {
    "finished": "done",
    "failed": "failed",
    "crashed": "failed",
    "killed": "failed",
    "running": "running",
    "preempted": "requeued",
}
BLOCK = 32768
WHOLE, FIRST, LAST = 1, 2, 4
PAGE = 1000


def from_project(project: str, filters: Mapping[str, Any], *, questions: bool = True) -> Iterator[Part]:
    """Every run of `entity/project` that the filters leave, with its whole history.

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
            f"wandb:{project}: {type(error).__name__}: {error}. Check entity/project, the filters, "
            f"WANDB_API_KEY and "
            f"WANDB_BASE_URL"
        ) from error
    if not runs:
        raise ValueError(
            f"wandb:{project}: no run" + (f" with {json.dumps(dict(filters))}" if filters else "")
        )
    for run in runs:
        rows = [_row(row) for row in run.scan_history(page_size=PAGE)]
        with tempfile.TemporaryDirectory() as folder:
            for file in run.files():
                if file.name == "provenance.json" or (questions and file.name.startswith("eval/step_")):
                    file.download(root=folder, replace=True).close()
            config = {key: value for key, value in run.config.items() if key != "_wandb"}
            yield _part(
                run.id,
                rows,
                config,
                STATES.get(str(run.state), str(run.state)),
                Path(folder),
                "wandb",
                f"wandb:{project}/{run.id}",
                questions,
            )


@dataclass
class Segment:
    """What one offline run file says; a resumed run leaves several.

    Attributes:
        exit_code: None as long as nothing ended the run.
    """

    path: Path
    run_id: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def from_files(root: Path, *, questions: bool = True) -> Iterator[Part]:
    """Every offline run below a folder; the segments of one run are joined, a step that two have from the
    later one.

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
    for run_id, parts in segments.items():
        last = parts[-1]
        state = {None: "running", 0: "done"}.get(last.exit_code, "failed")
        rows = {row["step"]: row for part in parts for row in part.rows}
        yield _part(
            run_id,
            [rows[step] for step in sorted(rows)],
            last.config,
            state,
            last.path.parent / "files",
            "wandb offline",
            str(last.path),
            questions,
        )


def _part(
    run_id: str,
    rows: list[dict[str, Any]],
    config: dict[str, Any],
    state: str,
    folder: Path,
    came_from: str,
    source: str,
    questions: bool,
) -> tuple[dict[str, Any], pa.Table, pa.Table | None]:
    path = folder / "provenance.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"state": state, "config": config}
    if manifest.get("state") == "running" and state != "done":
        # The copy was made while the run ran; W&B knows how it ended.
        manifest["state"] = state
    metrics = rows_table(rows)
    row = run_row(
        manifest, metrics, run=run_id, sweep=str(config.get("name")), came_from=came_from, source=source
    )
    return row, metrics, evaluations(folder / "eval") if questions else None


def _row(logged: Mapping[str, Any]) -> dict[str, Any]:
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
            out.config = {
                item.key: json.loads(item.value_json)
                for item in record.run.config.update
                if item.key != "_wandb"
            }
        elif kind == "history":
            row = _row(
                {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
            out.rows.append(row)
        elif kind == "exit":
            out.exit_code = record.exit.exit_code
    return out


def records(path: Path) -> Iterator[bytes]:
    """Payloads of a file in LevelDB's log format: a 7-byte file header, then chunks that never cross a 32 KiB
    block.

    References:
        LevelDB, doc/log_format.md
    """
    data = path.read_bytes()
    if data[:4] not in (b"", b":W&B"):
        raise ValueError(f"{path} is no W&B run file: it begins with {data[:4]!r}")
    place, payload = 7, b""
    while place + 7 <= len(data):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        chunk = data[place + 7 : place + 7 + size]
        if kind == 0 or len(chunk) < size:
            # Padding up to the next block, or a torn tail.
            place += room
            continue
        place += 7 + size
        payload = chunk if kind in (WHOLE, FIRST) else payload + chunk
        if kind in (WHOLE, LAST):
            yield payload
