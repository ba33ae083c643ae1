"""A sweep's states, reconciled from manifests, locks and the scheduler."""

import fcntl
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from mirrorpo.launch.scheduler import Job
from mirrorpo.launch.status import duration, launches, main, reconcile, record_launch, rows, shortened
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


def test_a_command_is_recorded_once(sweep: Path) -> None:
    for argv in (["train.py", "a"], ["train.py", "b"], ["train.py", "a"]):
        record_launch(sweep, argv)
    assert [entry["argv"][1] for entry in launches(sweep)] == ["b", "a"] and launches(sweep)[0][
        "pid"
    ] == os.getpid()


def test_cancel_with_nothing_to_cancel(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # This process is no launch of train.py: its id alone does not make it one.
    record_launch(sweep, ["train.py"])
    assert main([str(sweep), "cancel"]) == 0
    assert "nothing to cancel" in capsys.readouterr().out


def test_what_all_cells_share_is_said_once() -> None:
    assert shortened([]) == ("", [])
    assert shortened(["a=1,b=2/seed=0"]) == ("", ["a=1 b=2 seed=0"])
    assert shortened(["a=1,b=2/seed=0", "a=1,b=3/seed=0"]) == ("a=1 seed=0", ["b=2", "b=3"])


def test_durations_are_for_people() -> None:
    assert [duration(value) for value in (None, 0.4, 59, 61, 3600)] == ["", "0 s", "59 s", "1 min", "1 h 00"]
