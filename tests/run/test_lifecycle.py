"""A run's states from launch to end, as a reader of the manifest sees them."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli import FEW_PROBLEMS, ROOT, SMALL, folder, manifest, succeeded, train

from mirrorpo.config.cell import Cell
from mirrorpo.launch.launches import record_launch
from mirrorpo.launch.status import main
from mirrorpo.run.disk import writing_to
from mirrorpo.run.errors import DiskError
from mirrorpo.run.folder import RunFolder, RunState
from mirrorpo.run.lifecycle import CLOSING_S, enter, finish, hand_over, lifecycle
from mirrorpo.run.preemption import Preempted, StopRequest

CHOICES = {
    "algo": "grpo",
    "divergence": "kl",
    "weighting": "uniform",
    "model": "tiny",
    "dataset": "arithmetic",
}


class Closed:
    """A mirror that remembers how it was closed."""

    problem: str | None = None

    def finish(self, exit_code: int, within_s: float | None = None) -> None:
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


def test_a_run_that_hands_over_is_requeued_not_failed(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, tracker = run
    with pytest.raises(Preempted), lifecycle(cell, where, LAUNCH, tracker):
        raise Preempted(2, signal.SIGUSR2)
    assert (
        where.manifest()["state"] == "requeued"
        and where.manifest()["error"] is None
        and tracker.exit_code == 75
    )


def test_what_kept_the_mirror_from_its_work_is_in_the_manifest(run: tuple[Cell, RunFolder, Closed]) -> None:
    cell, where, mirror = run
    mirror.problem = "the tracker is behind"
    with lifecycle(cell, where, LAUNCH, mirror):
        pass
    assert where.manifest()["mirror"] == "the tracker is behind"


def test_a_mirror_has_seconds_before_its_job_is_queued_again_and_ends_with_it(
    run: tuple[Cell, RunFolder, Closed], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, where, mirror = run
    done: list[object] = []

    def finish(status: int, within_s: float | None = None) -> None:
        done.append((status, within_s))
        mirror.problem = "the tracker is behind"

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(
        "mirrorpo.run.lifecycle.requeue", lambda unwanted: done.append(where.manifest()["mirror"])
    )
    monkeypatch.setattr(mirror, "finish", finish)
    with pytest.raises(Preempted), lifecycle(cell, where, LAUNCH, mirror, StopRequest(signal.SIGUSR2)):
        raise Preempted(2, signal.SIGUSR2)
    assert done[:2] == [(75, CLOSING_S), "the tracker is behind"] and CLOSING_S <= 5


def test_a_run_that_was_interrupted_says_so_and_queues_nothing(
    run: tuple[Cell, RunFolder, Closed], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, where, mirror = run
    monkeypatch.setattr("mirrorpo.run.lifecycle.requeue", lambda unwanted: pytest.fail("queued"))
    # Also where it comes while the checkpoint is written that another signal asked for.
    for asked, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 75)):
        stop_request = StopRequest(asked)
        with pytest.raises(Preempted) as stopped, lifecycle(cell, where, LAUNCH, mirror, stop_request):
            stop_request.signum = signal.SIGINT
            raise Preempted(2, asked)
        assert where.manifest()["state"] == "interrupted" and stopped.value.status == status


def test_a_second_interruption_is_no_failure(
    run: tuple[Cell, RunFolder, Closed],
) -> None:
    cell, where, mirror = run
    with pytest.raises(KeyboardInterrupt), lifecycle(cell, where, LAUNCH, mirror):
        raise KeyboardInterrupt
    assert where.manifest()["state"] == "interrupted" and "second Ctrl-C" in where.manifest()["error"]


def test_after_three_launches_without_a_step_a_job_is_not_queued_again(
    run: tuple[Cell, RunFolder, Closed], capsys: pytest.CaptureFixture[str]
) -> None:
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[{"from_step": 2}] * 3)
    hand_over(where, StopRequest(signal.SIGUSR2))
    assert where.manifest()["state"] == "failed" and "give its job more time" in where.manifest()["error"]
    assert "error: no step was finished" in capsys.readouterr().err


def test_after_sigterm_it_is_whoever_sent_it_that_decides(run: tuple[Cell, RunFolder, Closed]) -> None:
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[{"from_step": 2}] * 3)
    hand_over(where, StopRequest(signal.SIGTERM))
    assert where.manifest()["state"] == "requeued" and Preempted(2, signal.SIGTERM).status == 143


def test_a_job_that_is_cancelled_while_its_run_hands_over_stays_cancelled(
    run: tuple[Cell, RunFolder, Closed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The run was asked to hand over and saved its step; meanwhile SIGTERM came, and the controller is slow.
    _, where, _ = run
    where.update_manifest(state=RunState.REQUEUED, launches=[])
    stop_request = StopRequest(signal.SIGUSR2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = "echo Socket timed out >&2"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\n{words}\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)

    def cancelled(seconds: float) -> None:
        stop_request.signum = signal.SIGTERM

    monkeypatch.setattr("mirrorpo.run.slurm_command.time.sleep", cancelled)
    hand_over(where, stop_request)
    assert (tmp_path / "calls").read_text() == "x\n" and where.manifest()["state"] == "requeued"


@pytest.mark.slow
def test_a_cell_resumed_under_other_code_ends_stale_and_is_started_anew_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = (*SMALL, *FEW_PROBLEMS, "steps=2", "eval_questions=0", f"out={tmp_path / 'out'}")
    succeeded(train(*cell, cwd=tmp_path))
    run = folder(tmp_path / "out")
    assert manifest(run)["state"] == "done" and len(manifest(run)["codes"]) == 1

    copy = tmp_path / "copy"
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(ROOT / name, copy / name, ignore=kept)
    shutil.copy(ROOT / "train.py", copy)
    with (copy / "src" / "mirrorpo" / "loss.py").open("a") as file:
        file.write("# edited\n")
    monkeypatch.setenv("PYTHONPATH", str(copy / "src"))
    monkeypatch.chdir(tmp_path)

    # As if killed behind step 1, and the code then edited.
    shutil.rmtree(run / "checkpoints" / "step_000002")
    RunFolder(run).update_manifest(state=RunState.RUNNING)
    words = [sys.executable, str(copy / "train.py"), *cell]
    resumed = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    succeeded(resumed, said=["resuming after step 1 of 2"])
    assert manifest(run)["state"] == "stale" and len(manifest(run)["codes"]) == 2
    succeeded(train(*cell, cwd=tmp_path), said=["stale already, nothing to do"])

    sweep = tmp_path / "out" / "single"
    record_launch(sweep, [words[1], "-m", "seed=0", *cell], [str(run.relative_to(sweep))])
    assert main([str(sweep)]) == main([str(sweep), "retry"]) == 0
    said = capsys.readouterr().out
    assert "1 stale" in said and "nothing to do" in said
    assert main([str(sweep), "retry", "--stale"]) == 0
    assert manifest(run)["state"] == "done" and len(manifest(run)["codes"]) == 1
    assert len(list((sweep / ".stale").rglob("metrics.jsonl"))) == 1
