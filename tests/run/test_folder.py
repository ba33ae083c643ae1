"""Run folders under kills: what a reader sees, what a relaunch refuses, who holds the lock."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis.data.runs import manifests
from mirrorpo.config.cell import AXES, Cell
from mirrorpo.run.folder import JsonLines, RunError, RunFolder, RunState, run_folders, timestamp, write_atomic
from mirrorpo.run.provenance import provenance


def cell(**changes: Any) -> Cell:
    config = {"algo": {"low": 0.2}, "steps": 40, "seed": 0, "out": "outputs", "name": "single", **changes}
    return Cell(config=config, choices=dict.fromkeys(AXES, "any"), settings={"lr": 0.1})


def python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process, with pipes."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


KILL_BEFORE_RENAME = """
    import os, signal, sys
    from pathlib import Path
    from mirrorpo.run.folder import JsonLines, write_atomic
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    path = Path(sys.argv[1])
    write_atomic(path, "new") if path.suffix == ".json" else JsonLines(path).cut_after(1)
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A metric file with steps 1 and 2."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    return path


# Files


def test_a_file_is_replaced_by_its_new_text(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for text in ("old", "new"):
        write_atomic(path, text)
    assert path.read_text() == "new"


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "manifest.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("old")
    with python(KILL_BEFORE_RENAME, path) as process:
        assert process.wait() == -9
    assert path.read_text() == "old"
    # The kill came late enough: the new text was there, beside.
    assert [other.read_text() for other in tmp_path.iterdir() if other != path] == ["new"]


def test_a_kill_while_a_metric_file_is_cut_leaves_all_its_rows(steps: Path) -> None:
    with python(KILL_BEFORE_RENAME, steps) as process:
        assert process.wait() == -9
    assert [row["step"] for row in JsonLines(steps).rows()] == [1, 2]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    whole = {letter: letter * 500_000 for letter in "ab"}
    write_atomic(path, whole["a"])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for text in whole.values():
                write_atomic(path, text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [path.read_text() for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert set(seen) == set(whole.values())


def test_a_file_is_on_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: calls.append(
            "sync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "sync file"
        ),
    )
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: [calls.append("rename"), replace(*paths)][1])
    write_atomic(tmp_path / "manifest.json", "new")
    assert calls == ["sync file", "rename", "sync folder"]


# Metric files


def test_rows_come_back_as_they_were_appended(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    rows = [{"step": 0, "reward/mean": 0.1 + 0.2}, {"step": 1, "text": "naïve\nline\u2028line"}]
    for row in rows:
        file.append(row)
    assert file.rows() == rows


def test_a_row_is_one_line(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "text": "two\nlines"})
    assert file.path.read_bytes().count(b"\n") == 1


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert JsonLines(tmp_path / "metrics.jsonl").rows() == []


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3}', "{", '{"step": 3, "a": 1.'])
def test_a_last_line_without_its_end_is_no_row(steps: Path, torn: str) -> None:
    steps.write_text(steps.read_text() + torn)
    assert [row["step"] for row in JsonLines(steps).rows()] == [1, 2]


def test_a_file_that_is_only_a_torn_line_has_no_rows(steps: Path) -> None:
    steps.write_text('{"step"')
    assert JsonLines(steps).rows() == []


def test_rows_of_later_steps_are_cut(steps: Path) -> None:
    JsonLines(steps).cut_after(1)
    assert steps.read_text() == '{"step": 1}\n'


def test_a_torn_line_is_cut_whatever_its_step(steps: Path) -> None:
    steps.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "reward/me')
    JsonLines(steps).cut_after(2)
    assert steps.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_file_cut_to_before_its_first_step_is_empty(steps: Path) -> None:
    JsonLines(steps).cut_after(-1)
    assert steps.read_text() == ""


def test_cutting_a_missing_file_makes_none(tmp_path: Path) -> None:
    JsonLines(tmp_path / "metrics.jsonl").cut_after(3)
    assert list(tmp_path.iterdir()) == []


def test_cutting_keeps_every_byte_of_what_stays(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    numbers = [
        0.1 + 0.2,
        1e-300,
        5e-324,
        1e22,
        -0.0,
        3.0,
        7,
        2**70,
        1 / 3,
        True,
        None,
        "é\u2028\x1c",
        [1.0, {"a": 2}],
    ]
    for step in range(3):
        file.append({"step": step} | {f"number/{index}": number for index, number in enumerate(numbers)})
    before = file.path.read_bytes()
    file.cut_after(2)
    assert file.path.read_bytes() == before


# Manifest


def test_a_folder_that_was_never_launched_has_an_empty_manifest(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "none").manifest() == {}


def test_an_update_leaves_the_other_entries(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.update_manifest(state=RunState.RUNNING, commit="abc")
    folder.update_manifest(state=RunState.DONE)
    assert folder.manifest() == {"state": "done", "commit": "abc"}


def test_a_planned_cell_is_entered_with_its_identity(tmp_path: Path) -> None:
    folder, planned = RunFolder(tmp_path / "run"), cell()
    folder.plan(planned)
    manifest = folder.manifest()
    assert (manifest["state"], manifest["config_hash"], manifest["choices"]) == (
        "planned",
        planned.hash,
        dict(planned.choices),
    )


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.DONE])
def test_planning_does_not_touch_a_run_that_was_launched(tmp_path: Path, state: RunState) -> None:
    folder = RunFolder(tmp_path)
    folder.update_manifest(state=state, error="out of memory")
    folder.plan(cell())
    assert folder.manifest() == {"state": state, "error": "out of memory"}


# Another config


def launched(path: Path, ran: Cell) -> RunFolder:
    folder = RunFolder(path)
    folder.update_manifest(state=RunState.RUNNING, config_hash=ran.hash, config=ran.config)
    return folder


def test_a_fresh_folder_takes_any_config(tmp_path: Path) -> None:
    RunFolder(tmp_path / "none").refuse_other_config(cell())


def test_a_folder_takes_its_own_config_again(tmp_path: Path) -> None:
    launched(tmp_path, cell()).refuse_other_config(cell())


def test_a_folder_takes_other_plumbing(tmp_path: Path) -> None:
    launched(tmp_path, cell()).refuse_other_config(cell(out="elsewhere", name="other", progress=False))


def test_a_folder_refuses_another_config_and_lists_what_differs(tmp_path: Path) -> None:
    folder = launched(tmp_path, cell())
    with pytest.raises(RunError) as refused:
        folder.refuse_other_config(cell(algo={"low": 0.1}, steps=50))
    assert "(algo.low: was 0.2, is 0.1; steps: was 40, is 50)" in str(refused.value)


def test_a_refusal_says_what_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=rf"^{tmp_path} .*Undo the change, or run under another name= or out=, or move the folder away$",
    ):
        launched(tmp_path, cell()).refuse_other_config(cell(steps=50))


def test_a_folder_that_was_only_planned_takes_another_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.plan(cell())
    folder.refuse_other_config(cell(steps=50))


# Finished


@pytest.fixture
def done(tmp_path: Path) -> RunFolder:
    """A finished run of two files."""
    (tmp_path / "policy").mkdir()
    files = {"metrics.jsonl": '{"step": 1}\n', "policy/config.json": "{}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    folder = RunFolder(tmp_path)
    folder.update_manifest(state=RunState.DONE, files={name: len(text) for name, text in files.items()})
    return folder


def test_a_run_that_has_all_its_files_is_finished(done: RunFolder) -> None:
    assert done.finished()


@pytest.mark.parametrize("name", ["metrics.jsonl", "policy/config.json"])
def test_a_run_that_lost_a_file_is_not_finished(done: RunFolder, name: str) -> None:
    (done.path / name).unlink()
    assert not done.finished()


@pytest.mark.parametrize(
    "text", ["", '{"step": 1}', '{"step": 1}\n{"step": 2}\n'], ids=["empty", "cut", "longer"]
)
def test_a_run_whose_file_has_another_size_is_not_finished(done: RunFolder, text: str) -> None:
    done.metrics.path.write_text(text)
    assert not done.finished()


def test_a_run_whose_file_was_written_to_since_is_read_where_it_matters(
    done: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    done.update_manifest(sha256=done.digests())
    assert set(done.digests()) == {"metrics.jsonl", "policy/config.json"}
    later = done.manifest_path.stat().st_mtime_ns + 1
    os.utime(done.metrics.path, ns=(later, later))
    assert done.finished(verify=True), "touched only, as a copy is"
    done.metrics.path.write_text('{"step": 2}\n')
    os.utime(done.metrics.path, ns=(later, later))
    assert done.finished() and not done.finished(verify=True)
    assert f"{done.metrics.path} is not what it was" in caplog.text


@pytest.mark.parametrize(
    "state", [state for state in RunState if state not in (RunState.DONE, RunState.STALE)]
)
def test_a_run_in_any_other_state_is_not_finished(done: RunFolder, state: RunState) -> None:
    done.update_manifest(state=state)
    assert not done.finished()


def test_a_run_that_was_never_launched_is_not_finished(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path / "none").finished()


# Lock

HOLD = """
    import subprocess, sys
    from pathlib import Path
    from mirrorpo.run.folder import RunFolder
    with RunFolder(Path(sys.argv[1])).locked():
        child = subprocess.Popen(["sleep", "60"], close_fds=False) if "child" in sys.argv else None
        print(child.pid if child else "held", flush=True)
        sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that holds a folder's lock until its standard input is closed, and its first word."""
    with python(HOLD, folder, *arguments) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_second_process_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    message = f"^{tmp_path} is being run by another process: wait for it, or stop it$"
    with holder(tmp_path), pytest.raises(RunError, match=message), RunFolder(tmp_path).locked():
        pass


def test_the_first_process_keeps_the_lock_after_a_second_was_refused(tmp_path: Path) -> None:
    with holder(tmp_path):
        for _ in range(2):
            with pytest.raises(RunError), RunFolder(tmp_path).locked():
                pass


def test_the_lock_is_free_after_its_holder_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.kill()
        process.wait()
        with RunFolder(tmp_path).locked():
            pass


def test_the_lock_is_free_after_its_holder_ended(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.communicate()
        with RunFolder(tmp_path).locked():
            pass


def test_the_lock_is_free_although_a_child_of_its_holder_lives_on(tmp_path: Path) -> None:
    with holder(tmp_path, "child") as (process, child):
        process.kill()
        process.wait()
        try:
            with RunFolder(tmp_path).locked():
                pass
        finally:
            os.kill(int(child), 9)


def test_the_lock_is_free_after_the_run_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunFolder(tmp_path).locked():
        raise KeyError
    with RunFolder(tmp_path).locked():
        pass


def test_locking_makes_the_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "name" / "label").locked():
        assert (tmp_path / "name" / "label").is_dir()


# Provenance


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit of one file."""
    (tmp_path / "file").write_text("one")
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for command in (
        ["init", "--quiet"],
        ["add", "file"],
        [*identity, "commit", "--quiet", "--message", "one"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_a_run_records_the_commit_it_came_from(repository: Path) -> None:
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (provenance(repository)["commit"], provenance(repository)["dirty"]) == (head, False)


def test_a_run_records_that_its_code_was_changed(repository: Path) -> None:
    (repository / "file").write_text("two")
    assert provenance(repository)["dirty"]


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance(tmp_path)["commit"] is None


def test_provenance_is_json_and_has_the_versions(tmp_path: Path) -> None:
    versions = json.loads(json.dumps(provenance(tmp_path)))["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(versions[name] for name in ("torch", "transformers", "mirrorpo"))


def test_a_time_stamp_is_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(timestamp())) < timedelta(seconds=5)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_run_folders_are_found_at_any_depth_and_nothing_inside_of_one_is(tmp_path: Path) -> None:
    for name in ("b/seed=1", "a/seed=0", "b/seed=1/policy", "c"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/seed=1", "a/seed=0", "b/seed=1/policy"):
        (tmp_path / name / "manifest.json").write_text("{}")
    assert run_folders(tmp_path) == [tmp_path / "a/seed=0", tmp_path / "b/seed=1"]
    assert run_folders(tmp_path / "nowhere") == []


def test_a_run_that_the_code_of_a_sweep_holds_is_none_of_the_sweeps(tmp_path: Path) -> None:
    for run in ("cell/seed=0", ".code/93609daf/tests/old/seed=0"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "manifest.json").write_text("{}")
    assert run_folders(tmp_path) == [tmp_path / "cell/seed=0"]
    assert manifests(tmp_path) == [tmp_path / "cell/seed=0" / "manifest.json"]
