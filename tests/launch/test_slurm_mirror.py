"""Real SLURM jobs that mirror with the real W&B client, to a server that is well or stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import SMALL, TRAIN, environment, folders, manifest, rows, succeeded
from slurm_cluster import LAUNCHER, Cluster, missing, started, until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,  # not among those of CI; make test-slurm has them all
    pytest.mark.skipif(missing() is not None, reason=f"NOT TESTED: a mirror on SLURM: {missing()}"),
    pytest.mark.timeout(600),
]

CELL = (
    *(word for word in SMALL if word != "tracking=none"),
    "tracking.mode=online",
    "eval_questions=0",
    "eval_sampled_questions=0",
    "checkpoint_every=500",
    "drift_questions=2",
    "steps=500",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # As long as SLURM's own default leaves a job, so that what follows is not its kill.
    with started("a mirror on SLURM", cpus=2, kill_wait_s=30) as running:
        yield running


@dataclass(frozen=True)
class Running:
    """A cell that runs as a job, and the server that it logs to."""

    cluster: Cluster
    folder: Path
    server: "subprocess.Popen[str]"

    @property
    def job(self) -> str:
        return manifest(self.folder)["job"]

    def queued_again(self) -> bool:
        return "Restarts=1" in self.cluster.run("scontrol", "show", "job", self.job)

    def steps(self) -> list[int]:
        return [row["step"] for row in rows(self.folder / "metrics.jsonl")]

    def logged(self) -> Sequence[str]:
        """State and steps that the server has of the run."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write("\n")
        self.server.stdin.flush()
        return self.server.stdout.readline().split()


@pytest.fixture
def running(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))
    with subprocess.Popen(
        [sys.executable, str(TRAIN.parent / "tests" / "wandb_server.py"), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            own = {name: value for name, value in environment().items() if not name.startswith("WANDB")}
            words = [sys.executable, str(TRAIN), "-m", "seed=0", *CELL, *LAUNCHER, f"out={tmp_path / 'out'}"]
            launched = subprocess.run(
                words,
                cwd=tmp_path,
                env={**own, "WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            succeeded(launched, said=["submitted 1 cells as job"])
            (run,) = folders(tmp_path / "out")
            until(lambda: '"step": 3' in metrics(run), "its third step")
            yield Running(cluster, run, server)
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()
            cluster.run("scancel", "--full", "--signal=KILL", "--state=RUNNING", check=False)
            cluster.run("scancel", f"--user={os.environ.get('USER', 'root')}", check=False)


def metrics(run: Path) -> str:
    path = run / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def test_a_job_that_hands_over_leaves_a_server_that_answers_every_row(running: Running) -> None:
    running.cluster.run("scancel", "--signal=USR2", running.job)
    took = until(running.queued_again, "the job to be queued again", 60)
    steps = running.steps()
    state, *logged = running.logged()
    print(f"queued again after {took:.1f} s; server: {state} {logged[-1]} of {steps[-1]}")
    assert state != "running" and logged == [str(step) for step in steps if step > 0]
    assert "mirror" not in manifest(running.folder)


def test_a_job_whose_server_hangs_is_queued_again_within_30_s_and_says_so(running: Running) -> None:
    running.server.send_signal(signal.SIGSTOP)
    running.cluster.run("scancel", "--signal=USR2", running.job)
    took = until(running.queued_again, "the job to be queued again", 60)
    kept = manifest(running.folder)
    print(f"queued again after {took:.1f} s")
    assert took < 30 and kept["state"] == "requeued"
    assert "is behind" in kept["mirror"] and "`wandb sync " in kept["mirror"]
    running.server.send_signal(signal.SIGCONT)
    until(lambda: len(manifest(running.folder)["launches"]) == 2, "the second launch")
    until(lambda: manifest(running.folder)["launches"][1].get("from_step", 0) >= 3, "it to resume")


def test_a_job_that_is_cancelled_while_it_hands_over_stays_cancelled(running: Running) -> None:
    running.server.send_signal(signal.SIGSTOP)
    running.cluster.run("scancel", "--signal=USR2", running.job)
    until(lambda: manifest(running.folder)["state"] == "requeued", "its hand-over", 60)
    job = running.job
    running.cluster.run("scancel", job)
    running.server.send_signal(signal.SIGCONT)

    def shown() -> str:
        return running.cluster.run("scontrol", "show", "job", job)

    until(lambda: "EndTime=Unknown" not in shown() and "COMPLETING" not in shown(), "the end of the job", 100)
    assert "JobState=CANCELLED" in shown() and "Restarts=0" in shown()
    assert len(manifest(running.folder)["launches"]) == 1
