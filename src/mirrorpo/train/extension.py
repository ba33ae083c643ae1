"""`extend=true`: a run of more steps goes on from a done one of fewer, as if it had been this run."""

import json
import shutil
from pathlib import Path

from mirrorpo.config.cell import Cell
from mirrorpo.config.settings import DriftSettings, EvaluationSettings, RunSettings
from mirrorpo.config.values import JsonObject
from mirrorpo.run import checkpoint, records
from mirrorpo.run.disk import replacing
from mirrorpo.run.folder import STEP_FILES, JsonLines, RunFolder
from mirrorpo.run.manifest import RunState
from mirrorpo.run.siblings import ShorterRun, longest_shorter_run
from mirrorpo.train import contamination
from mirrorpo.train.build import Components

# What a manifest says of a run's end and of its mirror is not the longer run's.
NOT_INHERITED = (
    "files",
    "sha256",
    "sha256_beside",
    "wandb_id",
    "attempt",
    "mirror",
    "ended",
    "error",
    "extended_from",
)
FOR_A_PERSON = ("completions.md", "credit.jsonl", *STEP_FILES)
START_ANEW = "leave extend out to start at step 0"


def extend(cell: Cell, components: Components) -> None:
    """Where `extend=true` and the cell has no checkpoint yet, begin its folder with a shorter run's steps.

    Afterwards the folder is that of a run which was stopped behind those steps; resuming does the rest. Its
    rows are those of a run of this length from the start: the shorter run's last step is evaluated, and its
    drift measured, only where this one does so.

    Raises:
        ValueError: if there is no such run, or it is no beginning of this one.
    """
    folder = RunFolder(cell.folder)
    if not cell.config["extend"] or checkpoint.complete_names(folder.checkpoints):
        return
    source = extendable(cell, components)
    if not source.folder.finished(verify=True):
        raise ValueError(
            f"extend=true: {source.folder.path} lacks some of what it had when it ended; launching it again "
            "makes it whole"
        )
    state = checkpoint.newest(source.folder.checkpoints)
    if state is None or state["step"] != source.steps:
        raise ValueError(
            f"extend=true: {source.folder.path} has no checkpoint of its last step, {source.steps}; "
            f"{START_ANEW}"
        )
    _copy_record(cell, source, folder)
    # Last, since it makes the others count.
    state |= {"config_hash": cell.hash}
    checkpoint.save(
        folder.checkpoints,
        source.steps,
        state,
        RunSettings.of(cell.config).keep_checkpoints,
        records=lambda: records.records(folder, source.steps),
    )
    print(f"extending {source.folder.path}: its {source.steps} steps are the first of this run's")


def extendable(cell: Cell, components: Components) -> ShorterRun:
    """The shorter run that a cell can go on from.

    Raises:
        ValueError: if there is none, or the learning rate of its steps depends on how many there are.
    """
    source = longest_shorter_run(cell)
    if source is None:
        raise ValueError(
            f"extend=true: {cell.folder.parents[1]} has no done run that differs from this one in fewer "
            f"steps alone; {START_ANEW}"
        )
    updates = cell.config["updates_per_rollout"]
    short, long = source.steps * updates, cell.config["steps"] * updates
    for update in range(short):
        was = components.schedule.factor(update, short)
        wanted = components.schedule.factor(update, long)
        if was != wanted:
            raise ValueError(
                f"extend=true: the schedule's factor at update {update + 1} is {was:.6g} in "
                f"{source.steps} steps ({source.folder.path}) and {wanted:.6g} in {cell.config['steps']}, "
                f"so the one is no beginning of the other; schedule=constant could be extended; {START_ANEW}"
            )
    return source


def _copy_record(cell: Cell, source: ShorterRun, folder: RunFolder) -> None:
    evaluation = EvaluationSettings.of(cell.config)
    evaluated = evaluation.due(source.steps, cell.config["steps"])
    manifest = source.folder.manifest()
    inherited = {key: value for key, value in manifest.items() if key not in NOT_INHERITED}
    folder.update_manifest(
        **inherited
        | {
            "state": RunState.REQUEUED,
            "config_hash": cell.hash,
            "choices": dict(cell.choices),
            "settings": dict(cell.settings),
            "config": cell.config,
            "extended_from": {
                "folder": str(source.folder.path),
                "steps": source.steps,
                "config_hash": manifest["config_hash"],
                "wandb_id": manifest.get("wandb_id"),
            },
        }
    )
    left_out = () if evaluated else ("eval/", "eval_s")
    if not DriftSettings.of(cell.config).due(source.steps, evaluated=evaluated):
        left_out += ("drift/",)
    _copy_rows(source.folder.metrics, folder.metrics, source.steps, left_out)
    _copy_rows(source.folder.timings, folder.timings, source.steps, left_out)
    for path in source.folder.evaluations():
        if evaluated or path.name != source.folder.evaluation(source.steps).name:
            _copy(path, folder.path / path.relative_to(source.folder.path))
    for pattern in FOR_A_PERSON:
        for path in source.folder.path.glob(pattern):
            _copy(path, folder.path / path.relative_to(source.folder.path))
    if (screened := source.folder.path / contamination.FILE).exists():
        _copy(screened, folder.path / contamination.FILE)


def _copy_rows(source: JsonLines, target: JsonLines, last: int, left_out: tuple[str, ...]) -> None:
    with replacing(target.path) as file:
        for row in source.stream():
            kept = row if row["step"] != last else _without(row, left_out)
            file.write(f"{json.dumps(kept)}\n".encode())


def _without(row: JsonObject, left_out: tuple[str, ...]) -> JsonObject:
    return {key: value for key, value in row.items() if not key.startswith(left_out)}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
