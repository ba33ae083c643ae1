"""The commands of a sweep, the launchers that run, and that one of them at a time starts cells."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirrorpo.launch.launches import LAUNCHERS, LAUNCHES, entered, launchers, launches, record_launch
from mirrorpo.launch.recipe import Recipe
from mirrorpo.launch.status import main
from mirrorpo.launch.sweep_lock import claimed, sweep_lock
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.process import started


def test_a_command_is_recorded_once_and_leaves_when_a_later_one_makes_all_its_cells(tmp_path: Path) -> None:
    for argv, cells in (("a", ["1"]), ("b", ["2"]), ("a", ["1", "3"]), ("c", ["4"])):
        record_launch(tmp_path, ["train.py", argv], cells)
    assert [launch.argv[1] for launch in launches(tmp_path)] == ["b", "a", "c"]
    record_launch(tmp_path, ["train.py", "all"], ["1", "2", "3"])
    assert [launch.argv[1] for launch in launches(tmp_path)] == ["c", "all"]
    # A search has other cells each generation.
    record_launch(tmp_path, ["train.py", "all"], ["5"])
    assert launches(tmp_path)[-1].cells == ["1", "2", "3", "5"]


def test_commands_of_an_older_version_are_still_given_again(tmp_path: Path) -> None:
    old = {"argv": ["train.py", "a"], "cwd": "/", "pid": 1, "host": socket.gethostname(), "time": "t"}
    (tmp_path / LAUNCHES).write_text(json.dumps([old]))
    assert launches(tmp_path)[0].cells is None
    record_launch(tmp_path, ["train.py", "b"], ["1"])
    assert [launch.argv[1] for launch in launches(tmp_path)] == ["a", "b"]


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    entry = {"argv": ["a"], "cwd": "/", "cells": ["1"], "recipe": {"claim": ["It is."], "later": 1}}
    (tmp_path / LAUNCHES).write_text(json.dumps([entry]))
    assert launches(tmp_path)[0].recipe == Recipe(claim=["It is."])
    (tmp_path / LAUNCHERS).mkdir()
    other = {"host": "elsewhere", "pid": 1, "start": None, "later": 1}
    (tmp_path / LAUNCHERS / "other.json").write_text(json.dumps(other))
    assert [launcher.host for launcher in launchers(tmp_path)] == ["elsewhere"]


def test_a_launcher_is_entered_while_it_runs(tmp_path: Path) -> None:
    with entered(tmp_path):
        (here,) = launchers(tmp_path)
        assert here.here and here.pid == os.getpid()
    assert launchers(tmp_path) == []


@pytest.fixture
def sleeper(tmp_path: Path):
    """A launch by its command line, of some other sweep."""
    script = tmp_path / "elsewhere" / "train.py"
    script.parent.mkdir()
    script.write_text("print('up', flush=True)\ninput()\n")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_cancel_signals_no_process_that_has_the_id_of_one_that_ended(
    tmp_path: Path, sleeper: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, host = tmp_path / "sweep", socket.gethostname()
    run = RunFolder(sweep / "arm" / "seed=0")
    # A launcher, and a run, that were killed; their id is somebody else's launch now.
    run.update_manifest(
        state="running", launches=[{}], pid=sleeper.pid, pid_start="boot:1", machine={"host": host}
    )
    entry = {"argv": ["train.py"], "cwd": "/", "pid": sleeper.pid, "host": host, "time": "t"}
    (sweep / LAUNCHES).write_text(json.dumps([entry]))
    (sweep / LAUNCHERS).mkdir()
    file = sweep / LAUNCHERS / "entry.json"
    file.write_text(json.dumps({"host": host, "pid": sleeper.pid, "start": "boot:1"}))
    with (run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([str(sweep), "cancel"]) == 0
    assert "nothing to cancel" in capsys.readouterr().out
    time.sleep(0.2)
    assert sleeper.poll() is None and not file.exists()

    # The one that was entered.
    file.write_text(json.dumps({"host": host, "pid": sleeper.pid, "start": started(sleeper.pid)}))
    assert main([str(sweep), "cancel"]) == 0
    assert f"the launcher, process {sleeper.pid}" in capsys.readouterr().out
    assert sleeper.wait(30) == -15


def test_a_run_whose_launcher_passes_the_signal_on_is_signalled_once(
    tmp_path: Path, sleeper: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    # Twice, it would end without a checkpoint. The launcher here passes nothing on, so its run goes on.
    script = tmp_path / "elsewhere" / "launcher" / "train.py"
    script.parent.mkdir()
    script.write_text(
        "import signal, subprocess, sys\n"
        f"run = subprocess.Popen([sys.executable, {str(tmp_path / 'elsewhere' / 'train.py')!r}], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "run.stdout.readline()\nsignal.signal(15, lambda *_: print('stopped', flush=True))\n"
        "print(run.pid, flush=True)\ninput()\nrun.kill()\nrun.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        pid, host = int(launcher.stdout.readline()), socket.gethostname()
        sweep = tmp_path / "sweep"
        run = RunFolder(sweep / "arm" / "seed=0")
        start = started(pid)
        run.update_manifest(state="running", launches=[{}], pid=pid, pid_start=start, machine={"host": host})
        (sweep / LAUNCHERS).mkdir()
        entry = {"host": host, "pid": launcher.pid, "start": started(launcher.pid)}
        (sweep / LAUNCHERS / "entry.json").write_text(json.dumps(entry))
        with (run.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert main([str(sweep), "cancel"]) == 0
        assert launcher.stdout.readline() == "stopped\n" and started(pid) == start
        assert launcher.communicate("\n", timeout=60)[0] == ""


def test_a_launcher_of_another_machine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "arm" / "seed=0").update_manifest(state="planned")
    (tmp_path / LAUNCHERS).mkdir()
    file = tmp_path / LAUNCHERS / "entry.json"
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "boot:1"}))
    assert main([str(tmp_path), "cancel"]) == 2
    assert "a launcher may run on elsewhere, process 1" in capsys.readouterr().err and file.exists()


def test_a_launcher_waits_for_another_that_starts_cells_of_the_sweep(tmp_path: Path) -> None:
    lines: list[str] = []
    order: list[str] = []
    taken = threading.Event()

    def second() -> None:
        taken.wait()
        with sweep_lock(tmp_path, lines.append):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with sweep_lock(tmp_path, lines.append):
        taken.set()
        while not lines:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and lines == [
        f"another launcher is submitting cells of {tmp_path}: waiting for it"
    ]


def test_a_run_is_one_launchers_until_it_ends(tmp_path: Path) -> None:
    with claimed(tmp_path) as first, claimed(tmp_path) as second:
        assert (first, second) == (True, False)
    with claimed(tmp_path) as free:
        assert free


def test_a_file_system_without_locks_is_named_and_the_launch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    lines: list[str] = []
    with sweep_lock(tmp_path, lines.append):
        pass
    with claimed(tmp_path) as free:
        assert free
    assert "without locks (Function not implemented)" in lines[0]
