"""The real W&B client, its server killed, stopped or slow: the run ends in time, with its numbers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import SMALL, command, environment, folder, manifest

SERVES = """
import sys, threading
from wandb_server import serve
with serve(delay_s=float(sys.argv[1])) as server:
    print(server.url, flush=True)
    threading.Event().wait()
"""

LIMIT_S = 4


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address; the parameter is the delay of every answer."""
    delay = str(getattr(request, "param", 0))
    with subprocess.Popen(
        [sys.executable, "-c", SERVES, delay],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.send_signal(signal.SIGCONT)
        process.kill()


def started(tmp_path: Path, url: str, *overrides: str) -> subprocess.Popen[str]:
    """A run that logs to a server, in a process of its own."""
    own = {name: value for name, value in environment().items() if not name.startswith("WANDB")}
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
        env={**own, "WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    assert kept["state"] == "done" and "is behind" in kept["mirror"] and "wandb sync" in kept["mirror"]
    assert "metrics.jsonl has every number" in errors


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
