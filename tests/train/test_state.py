"""A folder that a kill left at row 8 with checkpoints of steps 3 and 6, then damaged: what a resume keeps."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mirrorpo.config.cell import AXES, Cell
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.optim.adamw import AdamW
from mirrorpo.run import checkpoint
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder, RunState
from mirrorpo.train.budget import Budget
from mirrorpo.train.state import Checkpoints
from mirrorpo.train.step import Progress

CELL = Cell(
    config={"seed": 0, "steps": 9, "model": {}, "out": "o", "name": "n"},
    choices=dict.fromkeys(AXES, "any"),
    settings={},
)
ROWS = range(9)


def checkpoints(folder: RunFolder, cell: Cell = CELL) -> Checkpoints:
    """Of a network of one layer; evaluated at every second step."""
    network = torch.nn.Linear(2, 2)
    policy = SimpleNamespace(network=network, device=torch.device("cpu"))
    optimiser = AdamW(betas=[0.9, 0.99], epsilon=1e-8, weight_decay=0.0).build(network)
    learner: Any = SimpleNamespace(policy=policy, optimiser=optimiser, penalty=SimpleNamespace(beta=0.1))
    run: Any = SimpleNamespace(
        steps=9, checkpoint_every=3, checkpoint_minutes=0, checkpoint_async=False, keep_checkpoints=2
    )
    evaluation: Any = SimpleNamespace(
        due=lambda step, steps: step % 2 == 0 or step == steps, sets=["", "far"]
    )
    return Checkpoints(
        path=folder.checkpoints,
        config_hash=cell.hash,
        learner=learner,
        ranks=ALONE,
        run=run,
        evaluation=evaluation,
    )


@pytest.fixture
def killed(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "seed=0")
    launches = [{"from_step": 0}]
    folder.update_manifest(
        state=RunState.RUNNING,
        config_hash=CELL.hash,
        config=CELL.config,
        launches=launches,
        data={"train": "d"},
    )
    (folder.path / "eval" / "far").mkdir(parents=True)
    saver = checkpoints(folder)
    for step in ROWS:
        if step % 2 == 0:
            for name in ("", "far"):
                folder.evaluation(step, name).write_text(json.dumps({"uid": "a", "step": step}) + "\n")
        folder.metrics.append({"step": step, "reward/mean": step / 7})
        folder.timings.append({"step": step, "seconds": 1.0})
        if step > 0:
            folder.completions.append(step, f"# Step {step}\n\n~~~~\n<!-- step 1 -->\n~~~~\n")
            folder.credit.extend([{"step": step, "uid": uid} for uid in "ab"])
        if step in (3, 6):
            saver.save(step, Progress(position=step, beta=0.1, budget=Budget()), ["c0"])
    return folder


def line(path: Path, number: int, content: bytes) -> None:
    """Put something in place of a line, counted from 0; -1 is behind the last one."""
    lines = path.read_bytes().split(b"\n")
    lines[number] = content
    path.write_bytes(b"\n".join(lines))


Damage = Callable[[RunFolder], object]
# Name: damage, the step that is gone on after, the file that the warning names.
BEHIND: dict[str, tuple[Damage, int, str]] = {
    "nothing": (lambda run: None, 6, ""),
    "a garbled row behind": (lambda run: line(run.metrics.path, 8, b'{"st#p": 8'), 6, "metrics.jsonl"),
    "zeros behind": (lambda run: line(run.metrics.path, -1, b"\0" * 60 + b"\n"), 6, "metrics.jsonl"),
    "zeros in a last line": (lambda run: line(run.metrics.path, -1, b"\0" * 60), 6, ""),
    "no UTF-8 behind": (lambda run: line(run.metrics.path, 7, b'{"step": "\xe9"}'), 6, "metrics.jsonl"),
    "no step behind": (lambda run: line(run.metrics.path, 7, b'{"a": 1}'), 6, "metrics.jsonl"),
    "no object behind": (lambda run: line(run.metrics.path, 7, b"null"), 6, "metrics.jsonl"),
    "timings before": (lambda run: line(run.timings.path, 2, b"\xff\xfe"), 6, "timings.jsonl"),
    "timings gone": (lambda run: run.timings.path.unlink(), 6, ""),
    "a row before the newest": (lambda run: line(run.metrics.path, 5, b"{"), 3, "metrics.jsonl"),
    "a digit before the newest": (
        lambda run: run.metrics.path.write_bytes(
            run.metrics.path.read_bytes().replace(b"0.71428", b"0.71429")
        ),
        3,
        "metrics.jsonl",
    ),
    "metrics cut before the newest": (
        lambda run: run.metrics.path.write_bytes(b"\n".join(run.metrics.path.read_bytes().split(b"\n")[:5])),
        3,
        "metrics.jsonl",
    ),
    "an evaluation before the newest": (
        lambda run: run.evaluation(4).write_text("{"),
        3,
        "step_000004.jsonl",
    ),
    "an evaluation behind": (lambda run: run.evaluation(8).write_text("{"), 6, ""),
    "the newest checkpoint": (
        lambda run: (run.checkpoints / "step_000006" / "state.pt").write_bytes(b"PK"),
        3,
        "step_000006",
    ),
    "the newest checkpoint's records": (
        lambda run: (run.checkpoints / "step_000006" / "records.json").write_text("{}"),
        3,
        "step_000006",
    ),
    "metrics that are of no checkpoint": (lambda run: line(run.metrics.path, 1, b"\0"), 0, "metrics.jsonl"),
    "metrics gone": (lambda run: run.metrics.path.unlink(), 0, "metrics.jsonl"),
    "a set's first evaluation gone": (lambda run: run.evaluation(0, "far").unlink(), 0, "far/step_000000"),
    "the first evaluation gone": (lambda run: run.evaluation(0).unlink(), 0, "step_000000.jsonl"),
}


BEHIND_THE_NEWEST = tuple(b'{"step": %d, ' % step for step in (7, 8))


def content(folder: RunFolder) -> set[bytes]:
    """Every line and every checkpoint's state that is anywhere below a folder, but for the last rows.

    Those of no checkpoint are made again after any kill.
    """
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    lines = {line for path in files if path.suffix == ".jsonl" for line in path.read_bytes().split(b"\n")}
    lines = {line for line in lines if not line.startswith(BEHIND_THE_NEWEST)}
    return lines | {path.read_bytes() for path in files if path.name == "state.pt"}


@pytest.mark.parametrize("name", BEHIND)
def test_a_resume_keeps_all_that_is_whole_and_says_in_one_line_what_is_not(
    killed: RunFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, step, named = BEHIND[name]
    rows = killed.metrics.path.read_bytes().splitlines(keepends=True)
    damage(killed)
    before = content(killed)
    resumed = checkpoints(killed).resume(killed, "c0")
    assert resumed.step == step
    # From the start row 0 is made again too.
    kept = b"".join(rows[: step + 1]) if step else b""
    assert (killed.metrics.path.read_bytes() if killed.metrics.path.exists() else b"") == kept
    assert all(row["step"] <= step for row in killed.timings.rows())
    # What is shown of each step is cut too; a section that a model writes is none.
    shown = range(1, step + 1) if killed.credit.path.exists() else ()
    assert [row["step"] for row in killed.credit.stream()] == [done for done in shown for _ in "ab"]
    sections = killed.completions.path.read_text().split("\n\n<!--") if shown else []
    assert ["# Step" in section for section in sections] == [True] * len(shown)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == bool(named) and all(named in text for text in warnings), warnings
    if named:
        # Nothing is gone: what is not in its place is beside it.
        assert before <= content(killed)


def test_after_a_start_from_the_beginning_the_next_checkpoint_removes_none_that_was_kept(
    killed: RunFolder,
) -> None:
    killed.evaluation(0).unlink()
    saver = checkpoints(killed)
    saver.resume(killed, "c0")
    killed.metrics.append({"step": 0})
    saver.save(3, Progress(position=3, beta=0.1, budget=Budget()), ["c0"])
    kept = sorted(path.name for path in killed.path.glob("checkpoints.before_restart/*"))
    assert kept == ["step_000003", "step_000006"]


def test_a_checkpoint_keeps_what_is_remembered_of_prompts_where_something_is(killed: RunFolder) -> None:
    prompts = {"a": [0.1, 2.0 / 3.0, 0.0], "b": [1e-17, 1.0, 0.3]}
    progress = Progress(position=8, beta=0.1, budget=Budget(), prompts=prompts, drift=1.0 / 3.0)
    for keeps in (True, False):
        saver = replace(checkpoints(killed), keeps_prompts=keeps)
        saver.save(8, progress, ["c0"])
        resumed = saver.resume(killed, "c0").progress
        wanted = (prompts, 1.0 / 3.0) if keeps else ({}, 0.0)
        assert (resumed.prompts, resumed.drift) == wanted
        state = torch.load(killed.checkpoints / "step_000008" / "state.pt", weights_only=True)
        assert ("prompts" in state, "drift" in state) == (keeps, keeps)


def test_what_an_entropy_control_remembers_is_resumed_and_of_none_nothing_is_written(
    killed: RunFolder,
) -> None:
    saver = checkpoints(killed)
    resumed = saver.resume(killed, "c0").progress
    assert resumed.entropy == {}
    state = checkpoint.newest(killed.checkpoints)
    assert state is not None and "entropy" not in state
    killed.metrics.append({"step": 7, "reward/mean": 1.0})
    memory = {"coefficient": 0.1 + 0.2, "entropy": 1 / 3}
    saver.save(7, replace(resumed, position=7, entropy=memory), ["c0"])
    saver.background.wait()
    assert saver.resume(killed, "c0").progress.entropy == memory


def test_a_checkpoint_from_before_there_were_records_is_checked_by_its_rows(killed: RunFolder) -> None:
    for path in killed.checkpoints.glob("step_*"):
        (path / "records.json").unlink()
        (path / "sha256").write_text((path / "sha256").read_text().splitlines()[0] + "\n")
    line(killed.metrics.path, 5, b"{")
    assert checkpoints(killed).resume(killed, "c0").step == 3


def test_a_checkpoint_of_another_config_is_refused(killed: RunFolder) -> None:
    other = Cell(config={**CELL.config, "steps": 10}, choices=CELL.choices, settings={})
    with pytest.raises(RunError, match="another config's run"):
        checkpoints(killed, other).resume(killed, "c0")


MANIFESTS = {
    "empty": b"",
    "cut": b'{"state": "runn',
    "null": b"null",
    "a list": b"[]",
    "zeros": b"\0" * 50,
    "latin-1": b'{"state": "\xe9"}',
    "an unknown state": b'{"state": "paused"}',
    "gone": None,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_made_again_from_the_newest_checkpoint(
    killed: RunFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = MANIFESTS[name]
    killed.manifest_path.unlink() if damaged is None else killed.manifest_path.write_bytes(damaged)
    fresh = RunFolder(killed.path)
    fresh.refuse_other_config(CELL)
    fresh.refuse_other_circumstances({"data": {"train": "d"}})
    with pytest.raises(RunError, match="other circumstances"):
        fresh.refuse_other_circumstances({"data": {"train": "e"}})
    other = Cell(config={**CELL.config, "steps": 10}, choices=CELL.choices, settings={})
    with pytest.raises(RunError, match="steps: was 9, is 10"):
        fresh.refuse_other_config(other)
    (text,) = [record.getMessage() for record in caplog.records]
    assert str(killed.manifest_path) in text and "checkpoints/step_000006" in text
    fresh.update_manifest(state=RunState.RUNNING)
    assert fresh.manifest()["launches"] == [{"from_step": 0}]
    kept = killed.path / "manifest.damaged.json"
    assert (kept.read_bytes() if damaged is not None else None) == damaged


def test_files_of_single_steps_are_cut_and_the_run_goes_on_in_one_file(killed: RunFolder) -> None:
    """A run of version 0.1.0 has a file of completions, and one of their weights, for each step."""
    killed.completions.path.unlink()
    killed.credit.path.unlink()
    for step in range(1, 9):
        for path in (f"completions/step_{step:06d}.md", f"credit/step_{step:06d}.jsonl"):
            (killed.path / path).parent.mkdir(exist_ok=True)
            (killed.path / path).write_text("{}\n")
    assert checkpoints(killed).resume(killed, "c0").step == 6
    names = sorted(path.stem for path in killed.path.glob("c*/step_*.*"))
    assert names == sorted(2 * [f"step_{step:06d}" for step in range(1, 7)])
    assert set(killed.digests_beside()) == {
        "timings.jsonl",
        *(f"credit/step_{step:06d}.jsonl" for step in range(1, 7)),
    }


def test_a_section_or_a_row_that_a_kill_tore_goes_at_resume(killed: RunFolder) -> None:
    before = killed.completions.path.read_bytes(), killed.credit.path.read_bytes()
    for torn in ("<!-- st", "<!-- step 9 -->\n# Step 9", "<!-- step 9 -->\n# Step 9\n\n~~~~\nand"):
        for path, content in zip((killed.completions.path, killed.credit.path), before, strict=True):
            path.write_bytes(content + torn.encode())
        with killed.credit.path.open("ab") as file:
            file.truncate(len(before[1]) + 3)
        assert killed.cut_shown(8) == []
        assert (killed.completions.path.read_bytes(), killed.credit.path.read_bytes()) == before, torn
