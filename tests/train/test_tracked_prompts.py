"""Runs that remember prompts: killed, resumed, and extended by what checkpoints keep."""

import subprocess
import time
from pathlib import Path

import pytest
from cli import SMALL, appeared, command, environment, folder, rows, succeeded, train

from mirrorpo.run import checkpoint

TRACKED = (
    *SMALL,
    "steps=6",
    "group_size=1",
    "prompts_per_step=6",
    "dataset.train_size=9",
    "data_order=informative",
    "divergence=none",
    "drift_questions=2",
    "keep_checkpoints=9",
    "progress=false",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("algo", ["spo", "kalman_baseline"])
def test_a_killed_run_goes_on_with_the_same_values_and_draws_byte_for_byte(algo: str, tmp_path: Path) -> None:
    arguments = (*TRACKED, f"algo={algo}")
    succeeded(train(*arguments, f"out={tmp_path / 'whole'}", cwd=tmp_path))
    whole = folder(tmp_path / "whole")
    killed = (*arguments, f"out={tmp_path / 'killed'}")
    process = subprocess.Popen(
        command(*killed),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not appeared(tmp_path / "killed", "step_000003"):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    succeeded(train(*killed, "progress=true", cwd=tmp_path), said=["resuming after step"])
    again = folder(tmp_path / "killed")
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    states = [checkpoint.newest(run / "checkpoints") for run in (whole, again)]
    assert states[0] is not None and states[1] is not None
    assert states[0]["prompts"] == states[1]["prompts"] and states[0]["drift"] == states[1]["drift"]
    assert len(states[0]["prompts"]) == 9
    # Prompts were seen before, and groups of one gave a gradient.
    learned = [row for row in rows(whole / "metrics.jsonl") if row["step"] > 0]
    assert learned[-1]["baseline/seen"] > 0.5 and any(row["grad/norm"] > 0 for row in learned)
