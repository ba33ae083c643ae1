"""The real W&B client, its server killed, stopped or slow: the run ends in time, with its numbers."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import ROOT, SMALL, command, environment, folder, manifest

LIMIT_S = 4


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address; the parameter is the delay of every answer."""
    delay = str(getattr(request, "param", 0))
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "wandb_server.py"), delay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.send_signal(signal.SIGCONT)
        process.kill()


def at(url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who is logged in to a server."""
    own = {name: value for name, value in environment().items() if not name.startswith("WANDB")}
    return {**own, "WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)}


def started(tmp_path: Path, url: str, *overrides: str) -> subprocess.Popen[str]:
    """A run that logs to a server, in a process of its own."""
    small = (word for word in SMALL if word != "tracking=none")
    return subprocess.Popen(
        command(
            *small,
            "tracking.mode=online",
            f"tracking.limit_s={LIMIT_S}",
            "eval_questions=0",
            f"out={tmp_path / 'out'}",
            *overrides,
        ),
        cwd=tmp_path,
        env=at(url, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def clients(pid: int) -> list[str]:
    """What W&B started for a process and is still there."""
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"--pid {pid}" in line and not line.startswith("Z")]


def after_sync(process: subprocess.Popen[str], url: str, tmp_path: Path, problem: str) -> list[str]:
    """State and steps of the run on its server, which is there again, once the command was given."""
    process.send_signal(signal.SIGCONT)
    _, sent, _ = problem.split("`")
    assert sent.startswith("wandb sync ")
    subprocess.run(
        [sys.executable, "-m", *shlex.split(sent)],
        cwd=tmp_path,
        env=at(url, tmp_path),
        check=True,
        capture_output=True,
        timeout=100,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().split()


def wait_for_step(process: subprocess.Popen[str], tmp_path: Path, step: int) -> None:
    while process.poll() is None and not any(
        f'"step": {step}' in path.read_text() for path in tmp_path.rglob("metrics.jsonl")
    ):
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_run_whose_server_goes_away_ends_within_the_limit(
    tmp_path: Path, server: tuple[subprocess.Popen[str], str], signum: signal.Signals
) -> None:
    process, url = server
    run = started(tmp_path, url, "steps=4")
    wait_for_step(run, tmp_path, 1)
    process.send_signal(signum)
    wait_for_step(run, tmp_path, 4)
    done = time.monotonic()
    _, errors = run.communicate(timeout=120)
    # The policy is saved in this time too.
    assert time.monotonic() - done < LIMIT_S + 20 and run.returncode == 0, errors
    kept = manifest(folder(tmp_path / "out"))
    assert kept["state"] == "done" and "is behind" in kept["mirror"]
    assert errors.count("metrics.jsonl has every number") == 1
    end = time.monotonic() + 10
    while clients(run.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not clients(run.pid)
    if signum == signal.SIGSTOP:
        assert after_sync(process, url, tmp_path, kept["mirror"])[1:] == ["1", "2", "3", "4"]


@pytest.mark.slow
def test_a_run_that_no_server_let_in_can_be_sent_later(
    tmp_path: Path, server: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = server
    process.send_signal(signal.SIGSTOP)
    run = started(tmp_path, url, "steps=2", "tracking.init_timeout_s=2", "tracking.limit_s=60")
    _, errors = run.communicate(timeout=200)
    kept = manifest(folder(tmp_path / "out"))
    assert run.returncode == 0 and kept["state"] == "done", errors
    assert "the server let nothing in (CommError: " in kept["mirror"]
    assert after_sync(process, url, tmp_path, kept["mirror"]) == ["finished", "1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("server", [1.5], indirect=True)
def test_a_run_with_a_slow_server_is_no_slower_for_its_rows(
    tmp_path: Path, server: tuple[subprocess.Popen[str], str]
) -> None:
    run = started(tmp_path, server[1], "steps=4", "tracking.limit_s=60")
    _, errors = run.communicate(timeout=200)
    kept = manifest(folder(tmp_path / "out"))
    assert run.returncode == 0 and kept["state"] == "done" and "mirror" not in kept, errors


@pytest.mark.slow
def test_a_run_that_hands_over_does_so_before_a_stopped_server(
    tmp_path: Path, server: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = server
    run = started(tmp_path, url, "steps=400")
    wait_for_step(run, tmp_path, 1)
    process.send_signal(signal.SIGSTOP)
    run.send_signal(signal.SIGUSR2)
    asked = time.monotonic()
    run.communicate(timeout=120)
    assert run.returncode == os.EX_TEMPFAIL and time.monotonic() - asked < 30
    assert manifest(folder(tmp_path / "out"))["state"] == "requeued"
