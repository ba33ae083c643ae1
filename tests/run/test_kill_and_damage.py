"""`benchmarks/kill_and_damage.py`, some rounds of it: kills at random instants, with damage to a file."""

import subprocess
import sys

import pytest
from cli import ROOT, environment


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_kill_and_damage_to_one_file_end_in_the_same_numbers_or_in_one_line() -> None:
    script = [
        sys.executable,
        str(ROOT / "benchmarks" / "kill_and_damage.py"),
        "--rounds",
        "12",
        "--seed",
        "17",
    ]
    result = subprocess.run(
        script, env=environment(), capture_output=True, text=True, timeout=1400, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
