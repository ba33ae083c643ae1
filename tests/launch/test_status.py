"""A sweep's states, reconciled from manifests, locks and the scheduler."""

import fcntl
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli import TRAIN, environment
from omegaconf import OmegaConf

from mirrorpo.launch.launches import entered, record_launch
from mirrorpo.launch.scheduler import Job
from mirrorpo.launch.status import main, reconcile, rows
from mirrorpo.launch.status_table import duration, shortened
from mirrorpo.run import slurm_command
from mirrorpo.run.disk import file_digest
from mirrorpo.run.folder import RunFolder, RunState

LAUNCHED: dict[str, Any] = {"launches": [{"from_step": 0}]}
PENDING, RUNNING, TIMEOUT = (
    Job("7_0", "PENDING", "Resources"),
    Job("7_0", "RUNNING", ""),
    Job("7_0", "TIMEOUT", "TimeLimit"),
)

CASES = [
    # manifest, files all there, a process holds it, job -> state, words of the reason
    ({"state": "planned"}, False, False, None, "planned", None),
    ({"state": "queued"}, False, False, PENDING, "queued", "Resources"),
    ({"state": "queued"}, False, False, RUNNING, "running", None),
    # sbatch was never reached, or slurmctld lost its state.
    ({"state": "queued"}, False, False, None, "planned", None),
    ({"state": "queued"}, False, False, Job("7_0", "CANCELLED", ""), "failed", "CANCELLED, before it began"),
    ({"state": "running", **LAUNCHED}, False, True, RUNNING, "running", None),
    # The node is another machine, whose locks are not seen here.
    ({"state": "running", **LAUNCHED}, False, False, RUNNING, "running", None),
    ({"state": "running", **LAUNCHED}, False, True, None, "running", None),
    ({"state": "requeued", **LAUNCHED}, False, False, PENDING, "requeued", "Resources"),
    ({"state": "running", **LAUNCHED}, False, False, PENDING, "requeued", "Resources"),
    ({"state": "running", **LAUNCHED}, False, False, TIMEOUT, "failed", r"TIMEOUT \(TimeLimit\)"),
    ({"state": "running", **LAUNCHED}, False, False, None, "failed", "process is gone"),
    ({"state": "running", "job": "7_0", **LAUNCHED}, False, False, None, "failed", "left the queue"),
    ({"state": "requeued", "ended": "t", **LAUNCHED}, False, False, None, "failed", "stopped; launch again"),
    (
        {"state": "failed", "error": "NotFinite: step 3", **LAUNCHED},
        False,
        False,
        Job("7_0", "FAILED", ""),
        "failed",
        "NotFinite: step 3",
    ),
    # A failed cell that was submitted again.
    ({"state": "failed", "error": "old", **LAUNCHED}, False, False, PENDING, "requeued", "Resources"),
    (
        {"state": "interrupted", "ended": "t", **LAUNCHED},
        False,
        False,
        None,
        "interrupted",
        "command goes on",
    ),
    ({"state": "interrupted", **LAUNCHED}, False, True, None, "running", None),
    ({"state": "done", **LAUNCHED}, True, False, Job("7_0", "COMPLETED", ""), "done", None),
    ({"state": "done", **LAUNCHED}, False, False, None, "failed", "missing or cut"),
    ({"state": "stale", "error": "2 versions", **LAUNCHED}, True, False, None, "stale", "2 versions"),
]


@pytest.mark.parametrize("manifest, finished, held, job, state, reason", CASES)
def test_each_combination_has_one_state(
    manifest: dict, finished: bool, held: bool, job: Job | None, state: str, reason: str | None
) -> None:
    found, why = reconcile(manifest, finished, held, job)
    assert found == state
    if reason is None:
        assert why is None
    else:
        assert why is not None and re.search(reason, why)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed, state in enumerate(("planned", "running", "failed")):
        run = RunFolder(tmp_path / "arm" / f"seed={seed}")
        run.update_manifest(
            state=state,
            config={"steps": 10},
            error="NotFinite: step 4" if state == "failed" else None,
            launches=[{}] * seed,
        )
    for step in range(1, 5):
        RunFolder(tmp_path / "arm" / "seed=1").timings.append({"step": step, "seconds": 1.5, "eval_s": 0.5})
    return tmp_path


def test_a_row_tells_progress_and_what_is_left(sweep: Path) -> None:
    with (sweep / "arm" / "seed=1" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        planned, running, failed = rows(sweep)
    assert (planned.state, planned.step, planned.steps, planned.left_s) == ("planned", 0, 10, None)
    assert (running.state, running.step, running.left_s) == ("running", 4, 12.0)
    assert (failed.state, failed.error) == ("failed", "NotFinite: step 4")
    assert rows(sweep)[1].state == "failed", "whoever held the lock is gone"


def test_a_run_that_starts_while_somebody_looks_is_not_refused(sweep: Path) -> None:
    run = RunFolder(sweep / "arm" / "seed=0")
    with run.locked():
        assert run.held()
    assert not run.held()
    with (run.path / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with run.locked():
            pass


def test_json_has_a_row_a_cell_and_the_exit_status_says_that_one_failed(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in found] == ["planned", "failed", "failed"]
    for seed in (1, 2):
        RunFolder(sweep / "arm" / f"seed={seed}").update_manifest(state=RunState.PLANNED, launches=[])
    assert main([str(sweep), "--json"]) == 0


def test_the_table_counts_states_and_names_reasons(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep)])
    said = capsys.readouterr().out
    assert "1 planned, 2 failed" in said and "NotFinite" in said and "4/10" in said


BROKEN = {
    "manifest.json": [
        b"",
        b"null",
        b"[]",
        b"\0" * 50,
        b'{"state":"\xe9"}',
        b'{"state":"paused"}',
        b'{"config":[]}',
    ],
    "timings.jsonl": [
        b'{"a": 1}\n',
        b"\0" * 40 + b"\n",
        b'{"step": "\xe9"}\n',
        b"[]\n",
        b'{"st\n{"step": 3}\n',
    ],
}


def test_a_broken_cell_is_a_row_that_names_it_and_the_others_are_as_they_are(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, before = sweep / "arm" / "seed=1", rows(sweep)
    kept = {name: (cell / name).read_bytes() for name in BROKEN}
    for name, contents in BROKEN.items():
        for content in contents:
            (cell / name).write_bytes(content)
            planned, broken, failed = rows(sweep)
            assert (planned, failed) == (before[0], before[2]), content
            assert broken.state == "failed", content
            assert name == "timings.jsonl" or name in (broken.error or ""), content
            assert main([str(sweep)]) == 1 and main([str(sweep), "cancel"]) == 0
            assert "3 failed" not in capsys.readouterr().out
        (cell / name).write_bytes(kept[name])
    RunFolder(cell).update_manifest(state=RunState.DONE, files={})
    (cell / "timings.jsonl").write_bytes(kept["timings.jsonl"] + b"\xff\n")
    row = rows(sweep)[1]
    assert (row.state, row.step, row.error) == ("done", 4, "timings.jsonl: line 5 is damaged")
    RunFolder(cell).timings.append({"step": 5, "seconds": "long"})
    with RunFolder(cell).locked():
        RunFolder(cell).update_manifest(state=RunState.RUNNING)
        assert rows(sweep)[1].step == 5


def test_a_done_cell_says_that_its_config_is_gone_or_another_one(sweep: Path) -> None:
    run = RunFolder(sweep / "arm" / "seed=1")
    config = {"steps": 10, "lr": 5e-4, "schedule": {1: ".5"}, "name": "1e-3"}
    run.update_manifest(state=RunState.DONE, files={}, config=config)
    file = run.path / "config.yaml"
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    for content, said in (
        (text, None),
        (None, "config.yaml is gone"),
        ("", "config.yaml is not what the run wrote"),
        (text[: text.index("schedule")], "config.yaml is not what the run wrote"),
        (text.replace("10", "11"), "config.yaml is not what the run wrote"),
        ("\0" * 50, "config.yaml cannot be read"),
        ("a: [", "config.yaml cannot be read"),
        ("a: &a [*a]", "config.yaml cannot be read"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        row = rows(sweep)[1]
        assert row.state == "done" and (row.error or "").partition(";")[0] == (said or ""), content


def test_settings_as_they_were_written_are_not_read_again(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(sweep / "arm" / "seed=1")
    file = run.path / "config.yaml"
    file.write_text("steps: 10\n")
    made = {"config": {"steps": 10}, "config_sha256": file_digest(file)}
    run.update_manifest(state=RunState.DONE, files={}, **made)
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "load", lambda *_: pytest.fail("two thousand cells take seconds so"))
        assert rows(sweep)[1].error is None
    # Laid out anew it says the same.
    file.write_text("{steps: 10}\n")
    assert rows(sweep)[1].error is None
    file.write_text("steps: 11\n")
    assert (rows(sweep)[1].error or "").startswith("config.yaml is not what the run wrote")


def test_a_cell_whose_files_cannot_be_read_does_not_hide_the_others(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(sweep)
    (sweep / "arm" / "seed=1" / "error.txt").unlink(missing_ok=True)
    (sweep / "arm" / "seed=1" / "error.txt").mkdir()
    loop = sweep / "arm" / "seed=2"
    RunFolder(loop).update_manifest(state=RunState.DONE, files={"loop": 1})
    (loop / "loop").symlink_to("loop")
    planned, unread, looped = rows(sweep)
    assert planned == before[0] and unread.state == "failed" and looped.state == "failed"
    assert "loop" in (looped.error or "")
    assert main([str(sweep)]) == 1 and "1 planned, 2 failed" in capsys.readouterr().out


def test_an_interrupted_cell_is_retried_and_is_no_failure(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, state in enumerate((RunState.PLANNED, RunState.INTERRUPTED, RunState.PLANNED)):
        RunFolder(sweep / "arm" / f"seed={seed}").update_manifest(state=state, launches=[{}], error=None)
        RunFolder(sweep / "arm" / f"seed={seed}").update_manifest(launches=[{}] * (seed % 2))
    assert main([str(sweep)]) == 0 and "1 interrupted" in capsys.readouterr().out
    # There is a cell to retry, and no command to retry it with.
    assert main([str(sweep), "retry"]) == 1 and "launch its command again" in capsys.readouterr().err


def test_a_folder_without_cells_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no cell" in capsys.readouterr().err


def test_retry_without_a_recorded_launch_says_what_to_do(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "retry"]) == 1
    assert "launch its command again" in capsys.readouterr().err


def test_cancel_with_nothing_to_cancel(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # This process is no launch of train.py: its id alone does not make it one.
    record_launch(sweep, ["train.py"], ["arm/seed=0"])
    assert main([str(sweep), "cancel"]) == 0
    assert "nothing to cancel" in capsys.readouterr().out


def test_what_all_cells_share_is_said_once() -> None:
    assert shortened([]) == ("", [])
    assert shortened(["a=1,b=2/seed=0"]) == ("", ["a=1 b=2 seed=0"])
    assert shortened(["a=1,b=2/seed=0", "a=1,b=3/seed=0"]) == ("a=1 seed=0", ["b=2", "b=3"])


def test_durations_are_for_people() -> None:
    assert [duration(value) for value in (None, 0.4, 59, 61, 3600)] == ["", "0 s", "59 s", "1 min", "1 h 00"]


# ---------------------------------------------------------------- more than one sweep, and SLURM's silence


def test_above_sweeps_there_is_a_row_for_each_and_what_acts_wants_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, state in (("first", "failed"), ("first/nested", "planned"), ("second", "planned")):
        RunFolder(tmp_path / name / "arm" / "seed=0").update_manifest(state=state, error="e")
    assert main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "3 sweeps" in shown and all(name in shown for name in ("first/nested", "second", "1 failed"))
    assert main([str(tmp_path), "--json"]) == 1
    assert {row["sweep"]: row["state"] for row in json.loads(capsys.readouterr().out)} == {
        "first": "failed",
        "first/nested": "planned",
        "second": "planned",
    }
    for action in ("retry", "cancel"):
        assert main([str(tmp_path), action]) == 2
        assert f"to {action}, give one: " in capsys.readouterr().err
    # A sweep whose name begins with another's is one of its own.
    assert [row.cell for row in rows(tmp_path / "first")] == ["arm/seed=0"]
    assert main([str(tmp_path / "second" / "arm")]) == 0
    assert "second: 1 planned" in capsys.readouterr().out


def test_a_cell_that_is_a_link_has_its_job_and_is_not_listed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "disk" / "moved"
    RunFolder(elsewhere).update_manifest(state="queued")
    RunFolder(sweep / "arm" / "seed=1").update_manifest(state="planned")
    (sweep / "arm" / "seed=0").symlink_to(elsewhere)
    (sweep / "arm" / "latest").symlink_to("seed=1")
    (sweep / "arm" / "round").symlink_to(sweep)
    submitted(sweep, ["../disk/moved"])
    monkeypatch.setattr("mirrorpo.launch.status.jobs", lambda *_, **__: {elsewhere: RUNNING})
    assert [(row.cell, row.state) for row in rows(sweep)] == [
        ("arm/seed=0", "running"),
        ("arm/seed=1", "planned"),
    ]
    ids: list[str] = []
    monkeypatch.setattr("mirrorpo.launch.status.cancel", lambda given, **_: ids.extend(given))
    assert main([str(sweep), "cancel"]) == 0 and ids == ["7_0"]


def submitted(sweep: Path, cells: list[str]) -> None:
    folder = sweep / ".slurm" / "001.s.aa"
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text(json.dumps({"name": "s.aa", "cells": cells}))


def test_while_slurm_is_silent_cells_are_where_they_last_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = ("queued", "running", "requeued", "failed", "done")
    names = [f"arm/seed={seed}" for seed in range(5)]
    for name, state in zip(names, states, strict=True):
        began = [] if state == "queued" else [{}]
        RunFolder(tmp_path / name).update_manifest(
            state=state, launches=began, job="12_1", files={}, error="e" if state == "failed" else None
        )
    submitted(tmp_path, names)
    monkeypatch.setattr(slurm_command, "PAUSES_S", (0.01,))
    monkeypatch.setattr("mirrorpo.launch.status.LOOK_PATIENCE_S", 0.1)
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    assert main([str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [row["state"] for row in json.loads(out)] == list(states)
    assert "SLURM does not answer" in err and "connect failure" in err
    RunFolder(tmp_path / names[3]).update_manifest(state="done")
    assert main([str(tmp_path)]) == 0
    assert "2 done" in capsys.readouterr().out


def test_twelve_hundred_failed_cells_are_launched_again_by_one_command(tmp_path: Path) -> None:
    # More names than one argument may hold; the grid has others, so that nothing is checked and it is quick.
    axes = "algo=grpo,divergence=neural_mirror_learned,weighting=counterfactual_inverted"
    label = f"{axes},model=tiny,dataset=arithmetic,settings=01234567"
    cells = [f"{label}/seed={seed}" for seed in range(1200)]
    sweep = tmp_path / "out" / "single"
    for cell in cells:
        folder = sweep / cell
        folder.mkdir(parents=True)
        manifest = {"state": "failed", "error": "e", "launches": [{}], "config": {"steps": 1}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    argv = [str(TRAIN), "-m", "seed=1200,1201", f"out={tmp_path / 'out'}", "hydra.launcher.dry_run=true"]
    record_launch(sweep, argv, cells)
    result = subprocess.run(
        [sys.executable, "-m", "mirrorpo.status", str(sweep), "retry"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "0 of 2 cells would run" in result.stdout and "not asked for" in result.stdout
    assert not list(sweep.glob(".only.*"))


def test_cells_whose_jobs_were_cancelled_while_they_waited_are_launched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(tmp_path / "arm" / "seed=0").update_manifest(state="queued")
    submitted(tmp_path, ["arm/seed=0"])
    # SLURM has forgotten the job.
    monkeypatch.setattr("mirrorpo.launch.status.jobs", lambda *_, **__: {})
    script = "import sys; open('given', 'w').write(open(sys.argv[1].split('@')[1][:-1]).read())"
    monkeypatch.chdir(tmp_path)
    record_launch(tmp_path, ["-c", script], ["arm/seed=0"])
    with entered(tmp_path):
        assert main([str(tmp_path), "retry"]) == 0
        assert "nothing to do" in capsys.readouterr().out, "a launcher may be about to start it"
    assert main([str(tmp_path), "retry"]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert (tmp_path / "given").read_text() == "arm/seed=0\n"
