"""Launches on a real SLURM that hangs, loses answers, is asked twice at once, and refuses."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cli import SMALL, TRAIN, environment, folders, manifest, succeeded
from slurm_accounting import absent
from slurm_cluster import LAUNCHER, Cluster, missing
from slurm_cluster import status as status_within

from mirrorpo.launch.scheduler import batches
from mirrorpo.launch.status import rows as status_rows

reason = missing() or absent()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,  # not among those of CI; make test-slurm has them all
    pytest.mark.skipif(reason is not None, reason=f"NOT TESTED: SLURM that refuses: {reason}"),
    pytest.mark.timeout(900),
]

# The controller may be away for a while.
status = partial(status_within, timeout=200)
Launch = Callable[..., "subprocess.Popen[str]"]
CELL = (*SMALL, "steps=0", "eval_questions=2", "eval_sampled_questions=0")
SLURM = (*LAUNCHER, "hydra.launcher.poll_s=0.5")
# Jobs that stay in the queue.
HELD = (*SLURM, "+hydra.launcher.lines.hold=null")
# At most five jobs of a user, waiting ones too.
LIMIT = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        started = Cluster(
            Path(folder), cpus=4, accounted=True, further="AccountingStorageEnforce=limits,qos\n"
        )
        try:
            started.start()
            started.run("sacctmgr", "-i", "add", "account", "tests")
            started.run("sacctmgr", "-i", "add", "user", "root", "account=tests", check=False)
            yield started
        finally:
            started.stop()


@pytest.fixture
def launch(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))

    def go(*overrides: str, **extra: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(TRAIN), "-m", *overrides, *CELL, f"out={tmp_path / 'out'}"],
            cwd=tmp_path,
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield go
    cluster.run("scancel", "--user=root")
    end = time.time() + 60
    while cluster.run("squeue", "-h") and time.time() < end:
        time.sleep(0.2)


def ended(process: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    out, _ = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, out, "")


def queued(cluster: Cluster) -> list[str]:
    return cluster.run("squeue", "-h", "-r", "-o", "%i").split()


@pytest.fixture
def loses_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Put a command of SLURM's before the real one, which so many times does its work and hears nothing."""

    def put(name: str, times: int) -> Path:
        folder, tries = tmp_path / "bin", tmp_path / f"{name}.tries"
        folder.mkdir(exist_ok=True)
        tries.write_text("")
        (folder / name).write_text(
            f'#!/bin/sh\necho "$@" >> {tries}\n/usr/bin/{name} "$@" > {tries}.out || exit $?\n'
            f"if [ $(wc -l < {tries}) -le {times} ]; then\n"
            f'echo "{name}: error: Socket timed out on send/recv operation" >&2\nexit 1\nfi\n'
            f"cat {tries}.out\n"
        )
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return tries

    return put


def test_a_controller_that_hangs_and_one_that_dies_cost_a_waiting_launcher_nothing(
    cluster: Cluster, launch: Launch, tmp_path: Path
) -> None:
    sweep = tmp_path / "out" / "single"
    process = launch("seed=0", *SLURM, "hydra.launcher.wait=true", "hydra.launcher.setup=[sleep 30]")
    assert process.stdout is not None
    for line in process.stdout:
        if "submitted 1 cells" in line:
            break
    os.kill(cluster.pid("slurmctld"), signal.SIGSTOP)
    try:
        shown = status(str(sweep))
        assert (
            shown.returncode == 0 and "1 queued" in shown.stdout and "SLURM does not answer" in shown.stderr
        )
        told = status(str(sweep), "--json")
        assert [row["state"] for row in json.loads(told.stdout)] == ["queued"]
    finally:
        os.kill(cluster.pid("slurmctld"), signal.SIGCONT)
    cluster.kill_daemon("slurmctld")
    time.sleep(5)
    assert process.poll() is None
    cluster.start_daemon("slurmctld")
    result = ended(process)
    assert result.returncode == 0, result.stdout
    assert [manifest(run)["state"] for run in folders(sweep)] == ["done"]


def test_a_submission_whose_answer_is_lost_is_found_by_its_name_and_not_made_again(
    cluster: Cluster, launch: Launch, tmp_path: Path, loses_answers
) -> None:
    tries = loses_answers("sbatch", 1)
    asked = loses_answers("squeue", 2)
    result = ended(launch("seed=0,1", *HELD))
    assert result.returncode == 0 and "submitted 2 cells as job" in result.stdout, result.stdout
    assert len(tries.read_text().splitlines()) == 1 and len(asked.read_text().splitlines()) >= 3
    assert len(queued(cluster)) == 2
    assert [len(batch.cells) for batch in batches(tmp_path / "out" / "single")] == [2]


def test_two_launchers_at_once_submit_once_whatever_the_sweep_is_called(
    cluster: Cluster, launch: Launch, tmp_path: Path
) -> None:
    name = "name='a,b c|d 50%'"
    both = [ended(process) for process in [launch(name, "seed=0,1", *HELD) for _ in range(2)]]
    assert [result.returncode for result in both] == [0, 0], [result.stdout for result in both]
    assert sorted("submitted 2 cells" in result.stdout for result in both) == [False, True]
    assert len(queued(cluster)) == 2
    again = ended(launch(name, "seed=0,1", *HELD))
    assert again.returncode == 0 and again.stdout.count("is pending, left alone") == 2, again.stdout

    # Cancelled before they began, as one record of slurmctld's.
    sweep = tmp_path / "out" / "a,b c|d 50%"
    assert [row.state for row in status_rows(sweep)] == ["queued"] * 2
    cluster.run("scancel", "--user=root")
    assert [row.state for row in status_rows(sweep)] == ["failed"] * 2
    retried = status(str(sweep), "retry")
    assert retried.returncode == 0 and "submitted 2 cells" in retried.stdout, retried.stdout + retried.stderr
    assert len(queued(cluster)) == 2
    succeeded(status(str(sweep), "cancel"), said=["seed=0", "seed=1"])


def test_what_slurm_refuses_is_one_line_with_its_words_and_the_setting(
    cluster: Cluster, launch: Launch, tmp_path: Path
) -> None:
    result = ended(launch("seed=0,1", *HELD, "hydra.launcher.partition=nope"))
    error = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1 and "Traceback" not in result.stdout, result.stdout
    assert len(error) == 1 and "nvalid partition" in error[0] and "hydra.launcher.partition=nope" in error[0]
    assert "None of the 2 cells was submitted" in error[0] and not queued(cluster)
    assert [row.state for row in status_rows(tmp_path / "out" / "single")] == ["planned"] * 2


def test_where_a_limit_refuses_an_array_smaller_ones_are_submitted_and_the_rest_is_named(
    cluster: Cluster, launch: Launch, tmp_path: Path
) -> None:
    cluster.run("sacctmgr", "-i", "modify", "qos", "normal", "set", f"MaxSubmitJobsPerUser={LIMIT}")
    try:
        result = ended(launch("seed=range(8)", *HELD))
        assert result.returncode == 1 and "3 of 8 cells failed" in result.stdout, result.stdout
        assert "QOSMaxSubmitJobPerUserLimit" in result.stdout and "hydra.launcher.qos" in result.stdout
        assert len(queued(cluster)) == LIMIT and result.stdout.count("not submitted: ") == 3
        sweep = tmp_path / "out" / "single"
        assert sorted(row.state for row in status_rows(sweep)) == ["planned"] * 3 + ["queued"] * LIMIT
    finally:
        cluster.run("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=-1")
    cluster.run("scancel", "--user=root")
    # Arrays as large as the user wants them.
    result = ended(launch("seed=range(8)", *HELD, "hydra.launcher.max_array=3"))
    sizes = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("submitted ")]
    assert result.returncode == 0 and sizes == ["3", "3", "2"], result.stdout


def test_a_request_that_the_controller_reads_late_is_not_made_twice(
    cluster: Cluster, launch: Launch, tmp_path: Path
) -> None:
    # Stopped before sbatch asks: the request waits in its socket while sbatch gives up.
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    pid = cluster.pid("slurmctld")
    wrapper.write_text(
        f'#!/bin/sh\nkill -STOP {pid}\ntimeout 4 /usr/bin/sbatch "$@" && exit\n'
        'echo "sbatch: error: Socket timed out" >&2\nexit 1\n'
    )
    wrapper.chmod(0o755)
    process = launch("seed=0,1", *HELD, PATH=f"{wrapper.parent}:{os.environ['PATH']}")
    stopped = Path(f"/proc/{pid}/stat")

    def revive() -> None:
        while process.poll() is None:
            if stopped.read_text().rpartition(")")[2].split()[0] == "T":
                # What comes now finds no wrapper any more.
                wrapper.write_text('#!/bin/sh\nexec /usr/bin/sbatch "$@"\n')
                time.sleep(8)
                os.kill(pid, signal.SIGCONT)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=revive)
    thread.start()
    result = ended(process)
    thread.join()
    assert result.returncode == 0, result.stdout
    assert len(queued(cluster)) == 2
