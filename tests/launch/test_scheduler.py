"""What is asked of SLURM and how its answers are read; the commands here answer from files,
tests/launch/test_slurm.py has the real ones.
"""

import json
import stat
from pathlib import Path

import pytest

from mirrorpo.launch.scheduler import (
    Job,
    SchedulerError,
    SchedulerRefused,
    batches,
    cancel,
    job_name,
    jobs,
    largest_array,
    newest,
    submit,
)
from mirrorpo.run import slurm_command
from mirrorpo.run.slurm_command import SchedulerSilent


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put commands that print a text, or fail, first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, text: str, status: int = 0, error: str = "went wrong") -> Path:
        (folder / f"{name}.txt").write_text(text)
        script = folder / name
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {folder}/{name}.asked\ncat {folder}/{name}.txt\n[ {status} = 0 ] || '
            f"echo {error} >&2\nexit {status}\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return folder / f"{name}.asked"

    for name in ("squeue", "sacct", "scontrol", "scancel"):
        put(name, "")
    return put


def submitted(sweep: Path, stamp: str, name: str, cells: list[str]) -> Path:
    folder = sweep / ".slurm" / f"{stamp}.{name}"
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text(json.dumps({"name": name, "cells": cells}))
    return folder


def test_a_sweep_that_was_never_submitted_asks_nobody(tmp_path: Path, says) -> None:
    asked = says("squeue", "")
    assert jobs(tmp_path) == {} and not asked.exists()


def test_members_of_an_array_are_found_by_the_batchs_name(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b", "c"])
    asked = says("squeue", "s.aa|12|0|RUNNING|None\ns.aa|12|2|PENDING|Resources\nother|13|1|RUNNING|None\n")
    assert jobs(tmp_path) == {
        tmp_path / "a": Job("12_0", "RUNNING", ""),
        tmp_path / "c": Job("12_2", "PENDING", "Resources"),
    }
    assert "--name=s.aa" in asked.read_text() and " -r " in asked.read_text()


def test_a_batch_of_one_is_no_array(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a"])
    says("squeue", "s.aa|12|N/A|COMPLETING|None\n")
    assert (
        jobs(tmp_path) == {tmp_path / "a": Job("12", "COMPLETING", "")}
        and jobs(tmp_path)[tmp_path / "a"].active
    )


def test_the_last_submission_of_a_cell_stands(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b"])
    submitted(tmp_path, "2", "s.bb", ["b", "d"])
    says("squeue", "")
    says(
        "sacct",
        "s.bb|20_0|RUNNING by 0\ns.aa|12_0|TIMEOUT\ns.aa|12_1|CANCELLED by 0\ns.bb|20_1|OUT_OF_MEMORY\n",
    )
    found = jobs(tmp_path)
    assert {path.name: job.state for path, job in found.items()} == {
        "a": "TIMEOUT",
        "b": "RUNNING",
        "d": "OUT_OF_MEMORY",
    }
    assert newest(tmp_path)[tmp_path / "b"][0].name == "s.bb" and newest(tmp_path)[tmp_path / "a"][1] == 0


def test_a_job_in_the_queue_stands_over_what_accounting_says(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b"])
    says("squeue", "s.aa|12|0|PENDING|BeginTime\n")
    says("sacct", "s.aa|12_0|PREEMPTED\n")
    assert jobs(tmp_path)[tmp_path / "a"] == Job("12_0", "PENDING", "BeginTime")


def test_without_accounting_slurmctld_is_asked_while_it_remembers(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b"])
    says("sacct", "", 1)
    says(
        "scontrol",
        (
            "JobId=14 ArrayJobId=12 ArrayTaskId=1 JobName=s.aa UserId=u JobState=NODE_FAIL "
            "Reason=NodeDown\nJobId=15 JobName=x JobState=FAILED\n"
        ),
    )
    assert jobs(tmp_path) == {tmp_path / "b": Job("12_1", "NODE_FAIL", "NodeDown")}
    says("scontrol", "", 1)
    assert jobs(tmp_path) == {}


def test_accounting_lags_so_what_slurmctld_remembers_stands_over_it(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b"])
    says("sacct", "s.aa|12_0|RUNNING\ns.aa|12_1|TIMEOUT\n")
    says(
        "scontrol",
        "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=s.aa JobState=OUT_OF_MEMORY Reason=OutOfMemory\n",
    )
    assert jobs(tmp_path) == {
        tmp_path / "a": Job("12_0", "OUT_OF_MEMORY", "OutOfMemory"),
        tmp_path / "b": Job("12_1", "TIMEOUT", ""),
    }


def test_a_queue_that_does_not_answer_is_an_error(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a"])
    says("squeue", "", 1)
    with pytest.raises(SchedulerError, match="squeue failed: went wrong"):
        jobs(tmp_path)


def test_a_machine_without_slurm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path, "1", "s.aa", ["a"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="no squeue on this machine: log in to the cluster"):
        jobs(tmp_path)


def test_cancelling_nothing_asks_nobody(says) -> None:
    asked = says("scancel", "")
    cancel([])
    assert not asked.exists()
    cancel(["12_0", "12_1"])
    assert asked.read_text() == "12_0 12_1\n"


def test_an_array_is_as_large_as_the_cluster_takes(says) -> None:
    says("scontrol", "MaxArraySize            = 301\nMaxJobCount = 1000\n")
    assert largest_array() == 300


def test_members_that_waited_together_have_one_record(tmp_path: Path, says) -> None:
    submitted(tmp_path, "1", "s.aa", ["a", "b", "c", "d"])
    # As slurmctld and sacct write an array of which a member had begun when it was cancelled.
    says(
        "scontrol",
        "JobId=12 ArrayJobId=12 ArrayTaskId=4294967294 JobName=s.aa JobState=CANCELLED Reason=None\n"
        "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=s.aa JobState=TIMEOUT Reason=TimeLimit\n",
    )
    expected = {"a": "TIMEOUT", "b": "CANCELLED", "c": "CANCELLED", "d": "CANCELLED"}
    assert {path.name: job.state for path, job in jobs(tmp_path).items()} == expected
    says("scontrol", "")
    says("sacct", "s.aa|12_0|TIMEOUT\ns.aa|12_[1-3]|CANCELLED by 0\n")
    assert {path.name: job.state for path, job in jobs(tmp_path).items()} == expected


def test_names_that_slurm_would_split_are_looked_up_among_all_jobs(tmp_path: Path, says) -> None:
    assert job_name(Path("o/a,b c|d"), "1f") == "a-b-c-d.1f"
    # Of a version that let them through.
    submitted(tmp_path, "1", "a,b.1f", ["a"])
    submitted(tmp_path, "2", "s.aa", ["b"])
    asked = says("squeue", "a,b.1f|12|N/A|PENDING|Priority\n")
    assert {path.name: job.id for path, job in jobs(tmp_path).items()} == {"a": "12"}
    assert [line for line in asked.read_text().splitlines() if "--name" in line] == [
        "-h -r --states=all --name=s.aa -o %j|%F|%K|%T|%r"
    ]


def test_batches_are_in_the_order_of_their_numbers_whatever_the_clocks_said(tmp_path: Path) -> None:
    for stamp, number in (("2026-01-02", 1), ("2026-01-01", 2)):
        folder = submitted(tmp_path, stamp, f"s.{number}", ["a"])
        (folder / "cells.json").write_text(
            json.dumps({"name": f"s.{number}", "cells": ["a"], "number": number})
        )
    assert newest(tmp_path)[tmp_path / "a"][0].name == "s.2"


def test_a_submission_without_an_answer_is_looked_for_before_it_is_made_again(
    says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_command, "PAUSES_S", (0.01,))
    lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    made = says("sbatch", "", 1, lost)
    says("squeue", "14\n14\n")
    assert submit(["sbatch", "x"], "s.aa", patience_s=20) == "14"
    assert made.read_text() == "x\n"
    # Not there: made again. The first request was behind the second: the other one is cancelled.
    says("squeue", "")
    made = says("sbatch", "", 1, lost)
    with pytest.raises(SchedulerSilent):
        submit(["sbatch", "x"], "s.aa", patience_s=0.3)
    assert len(made.read_text().splitlines()) > 1
    says("sbatch", "", 1, "sbatch: error: Batch job submission failed: Invalid qos specification")
    with pytest.raises(SchedulerRefused, match="Invalid qos"):
        submit(["sbatch", "x"], "s.aa", patience_s=20)


def test_a_members_newest_log_is_its_own(tmp_path: Path) -> None:
    folder = submitted(tmp_path, "1", "s.aa", [str(index) for index in range(12)])
    for name in ("12_1_0_log.err", "9_1_0_log.err", "12_11_0_log.err", "12_1_0_log.out"):
        (folder / name).write_text(name)
    (batch,) = batches(tmp_path)
    assert (
        batch.log(1) == folder / "12_1_0_log.err"
        and batch.log(11) == folder / "12_11_0_log.err"
        and batch.log(2) is None
    )
