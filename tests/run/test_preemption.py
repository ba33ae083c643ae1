"""A request to stop is noted, and honoured at the next step boundary; what then becomes of the job."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from cli import FEW_PROBLEMS, SMALL, folder, launched, manifest, succeeded, train

from mirrorpo.run.preemption import (
    FRUITLESS_LAUNCHES,
    STOP_SIGNAL,
    StopRequest,
    fruitless,
    requeue,
    strongest,
)


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (STOP_SIGNAL, signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_nobody_asked() -> None:
    assert StopRequest().listen().signum is None


@pytest.mark.parametrize("signum", [STOP_SIGNAL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_nothing_else_happens(signum: signal.Signals) -> None:
    stop_request = StopRequest().listen()
    os.kill(os.getpid(), signum)
    assert stop_request.signum == signum


def test_sigterm_stands_over_a_later_request_to_be_queued_again() -> None:
    stop_request = StopRequest().listen()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), STOP_SIGNAL)
    assert stop_request.signum == signal.SIGTERM


@pytest.mark.parametrize("sent", [*permutations([STOP_SIGNAL, signal.SIGTERM, signal.SIGINT])])
def test_ctrl_c_stands_whatever_came_before_it_or_after_it(sent: tuple[signal.Signals, ...]) -> None:
    # A launcher answers Ctrl-C with SIGTERM, which may overtake what the terminal sends its cells.
    stop_request = StopRequest().listen()
    for signum in sent:
        os.kill(os.getpid(), signum)
    assert stop_request.signum == signal.SIGINT


def test_of_the_requests_that_ranks_have_ctrl_c_stands_over_sigterm_and_that_over_being_queued_again() -> (
    None
):
    stop, terminate, interrupt = STOP_SIGNAL, signal.SIGTERM, signal.SIGINT
    for sent, stands in (
        ([None, None], None),
        ([None, stop], stop),
        ([stop, interrupt], interrupt),
        ([interrupt, stop], interrupt),
        ([interrupt, terminate], interrupt),
        ([terminate, interrupt], interrupt),
        ([stop, None, terminate], terminate),
    ):
        assert strongest(sent) == stands, sent


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    code = (
        "import os; from mirrorpo.run.preemption import StopRequest; StopRequest().listen()\n"
        "os.kill(os.getpid(), 2)\n"
        "try: os.kill(os.getpid(), 2)\n"
        "except KeyboardInterrupt: print('at once')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "at once\n" and "once more stops it at once" in result.stderr


def test_a_second_sigterm_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time; from mirrorpo.run.preemption import StopRequest; "
        "StopRequest().listen()\nfor _ in range(2): os.kill(os.getpid(), 15)\nprint('alive')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGTERM and result.stdout == ""


def test_a_request_at_the_very_end_does_not_end_the_process() -> None:
    # Python gives its handlers back while it shuts down, which with torch takes a second.
    code = (
        "import os, signal; from mirrorpo.run.preemption import StopRequest; StopRequest().listen().close(); "
        "os.kill(os.getpid(), signal.SIGUSR2); print('ended')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
        == "ended\n"
    )


def test_a_request_that_comes_before_the_run_listens_waits_for_it() -> None:
    # As a job does: blocked, then another program in its place.
    code = textwrap.dedent("""
        import os, sys
        from mirrorpo.launch.job import Become
        after = "from mirrorpo.run.preemption import StopRequest; print(StopRequest().listen().signum.name)"
        before = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); import sys; "
        before += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
        Become([sys.executable, "-c", before, after])()
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "SIGUSR2\n"


@pytest.mark.parametrize(
    "steps, stuck",
    [
        ([], False),
        ([0, 0], False),
        ([0, 0, 0], True),
        ([0, 2, 2, 2], True),
        ([2, 2, 3], False),
        ([3, 3, None], False),
    ],
)
def test_a_job_that_begins_at_one_step_again_and_again_makes_no_progress(
    steps: list[int | None], stuck: bool
) -> None:
    assert FRUITLESS_LAUNCHES == 3
    assert fruitless([{} if step is None else {"from_step": step} for step in steps]) == stuck


def test_outside_of_a_job_nothing_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert requeue() is None


def test_a_node_without_scontrol_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "job 7 cannot be queued again from its node: there is no scontrol" in (requeue() or "")


@pytest.mark.parametrize(
    "ends, problem", [("exit 0", False), ("kill -TERM $$", False), ("echo no such job >&2; exit 1", True)]
)
def test_a_scontrol_that_is_ended_with_its_job_has_queued_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: str, problem: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{ends}\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert (requeue() is not None) == problem


# Without a checkpoint of its own before the end.
OVERRIDES = (*SMALL, *FEW_PROBLEMS, "steps=5", "eval_questions=0", "checkpoint_every=100")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The metrics of a run that nobody stops."""
    path = tmp_path_factory.mktemp("undisturbed")
    succeeded(train(*OVERRIDES, f"out={path}", cwd=path))
    return (folder(path) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    "signum, status, state",
    [
        (STOP_SIGNAL, os.EX_TEMPFAIL, "requeued"),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, "requeued", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 128 + signal.SIGINT, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_its_step_and_goes_on_to_the_same_end(
    tmp_path: Path, signum: signal.Signals, status: int, state: str, undisturbed: bytes
) -> None:
    # In a group of its own, which gets the signal as a terminal sends it: to helpers too.
    process = launched(*OVERRIDES, f"out={tmp_path / 'stopped'}", cwd=tmp_path, leads=True)
    while process.poll() is None and not any(
        '"step": 1' in path.read_text() for path in (tmp_path / "stopped").rglob("metrics.jsonl")
    ):
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    said, _ = process.communicate(timeout=60)
    run = folder(tmp_path / "stopped")
    assert process.returncode == status and f"stopped by {signum.name} after step" in said
    assert manifest(run)["state"] == state and len(list(run.glob("checkpoints/step_*"))) == 1

    if signum == signal.SIGTERM:
        # As after a machine that died: damage that a checkpoint makes good.
        (run / "manifest.json").write_bytes((run / "manifest.json").read_bytes()[:100])
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(b"\0" * 100 + b"\n")
    again = train(*OVERRIDES, f"out={tmp_path / 'stopped'}", cwd=tmp_path)
    succeeded(again, said=["resuming after step"])
    assert len(again.stderr.splitlines()) == (2 if signum == signal.SIGTERM else 0), again.stderr
    assert (run / "metrics.jsonl").read_bytes() == undisturbed
    assert manifest(run)["launches"][0]["from_step"] == 0 < manifest(run)["launches"][1]["from_step"]
