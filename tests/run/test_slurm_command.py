"""SLURM's commands while its controller does not answer; the ones here answer from files."""

import os
import time
from pathlib import Path

import pytest

from mirrorpo.run import slurm_command
from mirrorpo.run.slurm_command import SchedulerError, SchedulerRefused, SchedulerSilent, completed, output

SILENCES = (
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Socket timed out on send/recv operation",
    "scontrol: error: Zero Bytes were transmitted or received",
    "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    "slurm_load_jobs error: Slurm backup controller in standby mode",
    "sacct: error: Sending PersistInit msg: Connection refused",
    "squeue: error: Munge encode failed: Failed to connect to munged",
)
ANSWERS = (
    "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "Slurm accounting storage is disabled",
    "Requested operation is presently disabled for job 12",
)


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command that fails so many times, with a text, and then prints that it is well."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_command, "PAUSES_S", (0.02,))

    def put(failures: int, text: str, pause: str = "true") -> Path:
        tries = tmp_path / "tries"
        tries.write_text("")
        (tmp_path / "squeue").write_text(
            f'#!/bin/sh\nn=$(wc -l < {tries})\necho "$@" >> {tries}\nif [ $n -lt {failures} ]; then\n'
            f'{pause}\necho "{text}" >&2\nexit 1\nfi\necho well\n'
        )
        (tmp_path / "squeue").chmod(0o755)
        return tries

    return put


def test_a_controller_that_does_not_answer_is_asked_again_and_one_that_says_no_is_not(squeue) -> None:
    for text in SILENCES:
        tries = squeue(2, text)
        assert output("squeue", "-h", patience_s=20) == "well\n", text
        assert tries.read_text() == "-h\n" * 3, text
    for text in ANSWERS:
        tries = squeue(1, text)
        with pytest.raises(SchedulerRefused) as refused:
            output("squeue", patience_s=20)
        assert refused.value.reason in text and tries.read_text() == "\n", text


def test_patience_ends_and_the_error_has_slurms_words(squeue) -> None:
    tries = squeue(10_000, SILENCES[0])
    began = time.monotonic()
    with pytest.raises(SchedulerSilent, match=r"does not answer .*connect failure.* tries in 0 s"):
        output("squeue", patience_s=0.3)
    assert 0.1 < time.monotonic() - began < 20 and len(tries.read_text()) > 1
    squeue(1, SILENCES[0])
    with pytest.raises(SchedulerSilent, match="1 tries"):
        output("squeue", patience_s=0)


def test_a_command_that_hangs_is_ended_and_given_again(squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_command, "SHORTEST_LIMIT_S", 0.5)
    monkeypatch.setattr(slurm_command, "COMMAND_LIMIT_S", 0.5)
    squeue(1, "never", pause="exec sleep 60")
    assert output("squeue", patience_s=20) == "well\n"
    squeue(10_000, "never", pause="exec sleep 60")
    with pytest.raises(SchedulerSilent, match="nothing within"):
        output("squeue", patience_s=0.6)


def test_what_is_learned_before_another_try_can_stand_for_it(squeue) -> None:
    tries = squeue(2, SILENCES[1])
    result = completed("squeue", patience_s=20, before_retry=lambda: "there already")
    assert result.stdout == "there already" and tries.read_text() == "\n"


def test_a_command_that_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SchedulerError, match="no squeue on this machine: log in to the cluster"):
        output("squeue", patience_s=20)
