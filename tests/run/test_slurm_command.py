"""SLURM's programs are called again while the controller is away, and not when it refuses."""

import time
from pathlib import Path

import pytest

from mirrorpo.run.slurm_command import SlurmError, slurm


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A stand-in that fails as often as `failures` says, with the words in `words`."""
    path = tmp_path / "scontrol"
    path.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho x >> calls\n"
        '[ $(wc -l < calls) -gt $(cat failures) ] || { cat words >&2; exit 1; }\necho "got $1"\n'
    )
    path.chmod(0o755)
    return path


def fails(program: Path, times: int, words: str) -> None:
    (program.parent / "failures").write_text(str(times))
    (program.parent / "words").write_text(words)


def calls(program: Path) -> int:
    return len((program.parent / "calls").read_text().splitlines())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorpo.run.slurm_command.FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize(
    "words",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "scontrol: error: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    ],
)
def test_a_controller_that_is_away_for_a_while_is_called_again(program: Path, words: str) -> None:
    fails(program, 3, words)
    ended = slurm(str(program), "hello", wait_s=20)
    assert ended is not None and ended.stdout == "got hello\n" and calls(program) == 4


def test_a_controller_that_refuses_is_called_once_and_quoted(program: Path) -> None:
    fails(program, 9, "Invalid job id specified")
    with pytest.raises(SlurmError, match="Invalid job id specified") as refused:
        slurm(str(program), wait_s=20)
    assert calls(program) == 1 and not refused.value.away


def test_a_controller_that_stays_away_is_given_up(program: Path) -> None:
    fails(program, 999, "Unable to contact slurm controller")
    started = time.monotonic()
    with pytest.raises(SlurmError, match=r"Unable to contact slurm controller \(for 0\.2 s\)") as away:
        slurm(str(program), wait_s=0.2)
    assert away.value.away and time.monotonic() - started < 5 and calls(program) > 1


def test_a_program_that_hangs_is_given_up(program: Path) -> None:
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(SlurmError, match=r"does not answer within 0\.2 s") as away:
        slurm(str(program), wait_s=0.2)
    assert away.value.away


def test_what_became_unwanted_is_not_called(program: Path) -> None:
    fails(program, 0, "")
    assert slurm(str(program), unwanted=lambda: True) is None
    assert not (program.parent / "calls").exists()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlurmError, match="nowhere cannot be run") as absent:
        slurm(str(tmp_path / "nowhere"))
    assert not absent.value.away
