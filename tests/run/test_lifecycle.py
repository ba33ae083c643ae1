"""A run's states from launch to end, as a reader of the manifest sees them."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT, SMALL, environment, folder, manifest, succeeded

from mirrorpo.config.cell import Cell
from mirrorpo.run.disk import writing_to
from mirrorpo.run.errors import DiskError
from mirrorpo.run.folder import RunFolder, RunState
from mirrorpo.run.lifecycle import enter, finish, lifecycle, requeue_or_exit
from mirrorpo.run.preemption import Preempted

CHOICES = {
    "algo": "grpo",
    "divergence": "kl",
    "weighting": "uniform",
    "model": "tiny",
    "dataset": "arithmetic",
}


class Closed:
    """A tracker that remembers how it was closed."""

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def run(tmp_path: Path) -> tuple[Cell, RunFolder, Closed]:
    (tmp_path / "policy").mkdir()
    return (
        Cell(config={"out": str(tmp_path), "name": "s", "seed": 0, "steps": 4}, choices=CHOICES, settings={}),
        RunFolder(tmp_path),
        Closed(),
    )


LAUNCH: dict[str, Any] = {"time": "2026-11-25T00:00:00Z", "commit": "abc", "code": "c0"}


def test_a_launch_is_entered_and_begins_at_a_step(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, tracker = run
    with lifecycle(cell, where, LAUNCH, tracker):
        assert where.manifest()["state"] == "running" and where.manifest()["ended"] is None
        enter(where, 3, ["c0"])
        where.metrics.append({"step": 0})
        finish(where, ["c0"])
    assert (
        where.manifest()["state"] == "done"
        and where.manifest()["launches"] == [LAUNCH | {"from_step": 3}]
        and where.manifest()["error"] is None
    )
    assert tracker.exit_code == 0 and where.finished()


def test_steps_of_two_codes_make_a_stale_run_that_is_finished_and_says_why(
    run: tuple[Cell, RunFolder, Closed],
) -> None:
    cell, where, tracker = run
    with lifecycle(cell, where, LAUNCH, tracker):
        enter(where, 0, ["c0", "c1"])
        where.metrics.append({"step": 0})
        finish(where, ["c0", "c1"])
    assert (
        where.manifest()["state"] == "stale"
        and "2 versions of the code" in where.manifest()["error"]
        and where.finished()
    )


def test_a_failure_leaves_its_reason_and_traceback(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, tracker = run
    with pytest.raises(KeyError), lifecycle(cell, where, LAUNCH, tracker):
        raise KeyError("gone")
    assert (
        where.manifest()["state"] == "failed"
        and where.manifest()["error"] == "KeyError: 'gone'"
        and tracker.exit_code == 1
    )
    assert "Traceback" in (where.path / "error.txt").read_text()
    with lifecycle(cell, where, LAUNCH, tracker):
        assert not (where.path / "error.txt").exists()


def test_a_full_disk_is_a_failure_with_its_line_alone(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, tracker = run
    with pytest.raises(DiskError), lifecycle(cell, where, LAUNCH, tracker), writing_to(where.path):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    line = f"out: disk quota exceeded, {where.path}, resume with the same command"
    assert (where.manifest()["state"], where.manifest()["error"]) == ("failed", line)


def test_where_nothing_can_be_written_the_error_itself_is_what_is_seen(
    run: tuple[Cell, RunFolder, Closed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "broken")

    cell, where, tracker = run
    with pytest.raises(KeyError, match="gone"), lifecycle(cell, where, LAUNCH, tracker):
        monkeypatch.setattr(Path, "open", refuse)
        raise KeyError("gone")
    assert tracker.exit_code == 1


def test_ctrl_c_interrupts_a_run_and_a_second_one_is_no_failure_either(
    run: tuple[Cell, RunFolder, Closed],
) -> None:
    cell, where, tracker = run
    for error in (Preempted(2, signal.SIGINT), KeyboardInterrupt()):
        with pytest.raises(type(error)), lifecycle(cell, where, LAUNCH, tracker):
            raise error
        assert where.manifest()["state"] == "interrupted", error
    assert "second Ctrl-C" in where.manifest()["error"]
    where.update_manifest(launches=[])
    assert requeue_or_exit(Preempted(2, signal.SIGINT), where) == 130


def test_a_run_that_hands_over_is_requeued_not_failed(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, tracker = run
    with pytest.raises(Preempted), lifecycle(cell, where, LAUNCH, tracker):
        raise Preempted(2, signal.SIGUSR2)
    assert (
        where.manifest()["state"] == "requeued"
        and where.manifest()["error"] is None
        and tracker.exit_code == 75
    )


def test_after_three_launches_without_a_step_a_job_is_not_queued_again(
    run: tuple[Cell, RunFolder, Closed], capsys: pytest.CaptureFixture[str]
) -> None:
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[{"from_step": 2}] * 3)
    assert requeue_or_exit(Preempted(2, signal.SIGUSR2), where) == 75
    assert where.manifest()["state"] == "failed" and "give its job more time" in where.manifest()["error"]
    assert "error: no step was finished" in capsys.readouterr().err


def test_after_sigterm_it_is_whoever_sent_it_that_decides(run: tuple[Cell, RunFolder, Closed]) -> None:
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[{"from_step": 2}] * 3)
    assert (
        requeue_or_exit(Preempted(2, signal.SIGTERM), where) == 143
        and where.manifest()["state"] == "requeued"
    )


def test_of_several_processes_one_alone_has_the_job_queued_again(
    run: tuple[Cell, RunFolder, Closed], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[])
    asked: list[str] = []
    monkeypatch.setattr("mirrorpo.run.lifecycle.requeue", lambda: asked.append("queued"))
    assert requeue_or_exit(Preempted(2, signal.SIGUSR2), where, first=False) == 75 and asked == []
    assert requeue_or_exit(Preempted(2, signal.SIGUSR2), where, first=True) == 75 and asked == ["queued"]


def test_a_cell_resumed_under_other_code_ends_stale_and_is_started_anew_on_request(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(ROOT / name, copy / name, ignore=kept)
    shutil.copy(ROOT / "train.py", copy)
    environ = {**environment(), "PYTHONPATH": str(copy / "src")}

    def go(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    grid = (str(copy / "train.py"), "-m", "seed=0", *SMALL, "eval_questions=0", f"out={tmp_path / 'out'}")
    succeeded(go(*grid, "steps=3"))
    run = folder(tmp_path / "out")
    assert manifest(run)["state"] == "done" and len(manifest(run)["codes"]) == 1

    # As if killed behind step 2, and the code then edited.
    shutil.rmtree(run / "checkpoints" / "step_000003")
    RunFolder(run).update_manifest(state=RunState.RUNNING)
    with (copy / "src" / "mirrorpo" / "loss.py").open("a") as file:
        file.write("# edited\n")
    succeeded(go(*grid, "steps=3"))
    assert manifest(run)["state"] == "stale" and len(manifest(run)["codes"]) == 2
    assert go(*grid, "steps=3").stdout.count("stale already, nothing to do") == 1

    status = ("-m", "mirrorpo.status", str(tmp_path / "out" / "single"))
    assert "stale" in go(*status).stdout and "nothing to do" in go(*status, "retry").stdout
    succeeded(go(*status, "retry", "--stale"))
    assert manifest(run)["state"] == "done" and len(manifest(run)["codes"]) == 1
    assert len(list((tmp_path / "out" / "single" / ".stale").rglob("metrics.jsonl"))) == 1
