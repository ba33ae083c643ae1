"""`benchmarks/whole_run.py`: what it makes of its rounds, and a small one of them."""

from collections.abc import Callable, Sequence

import pytest
from cli import ROOT, run_script

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sequence[str]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from whole_run_report import Measured, report

    def made(rates: dict[tuple[str, str], Sequence[float]], loads: Sequence[float]) -> Sequence[str]:
        rounds = {
            arm: [
                Measured(tokens=100, processor=100 / rate, wall=200 / rate, peak_mb=rate) for rate in of_arm
            ]
            for arm, of_arm in rates.items()
        }
        return list(report(rounds, loads, 3.0))

    return made


def test_the_better_precision_of_each_side_is_compared_and_a_loaded_machine_has_no_verdict(
    lines: Callable[..., Sequence[str]],
) -> None:
    rates = {
        ("ours", "float32"): [100.0, 90.0, 110.0],
        ("ours", "bfloat16"): [50.0, 500.0, 60.0],
        ("TRL", "float32"): [20.0, 21.0, 22.0],
        ("TRL", "bfloat16"): [40.0, 39.0, 41.0],
    }
    quiet, loaded = lines(rates, [0.9, 1.5]), lines(rates, [0.9, 1.6])
    assert "ours in float32 over TRL in bfloat16: 2.50x" in quiet[-2] and "2.68x the memory" in quiet[-2]
    assert quiet[-1] == "wanted 3.0x: not met"
    assert loaded[:-1] == quiet[:-1] and loaded[-1].startswith("no verdict: the load was up to 1.6 a core")
    rates["TRL", "bfloat16"] = [30.0, 30.0, 30.0]
    assert lines(rates, [0.5])[-1] == "wanted 3.0x: met"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny", "25m"])
def test_a_round_of_a_step_has_a_line_for_each_arm(model: str) -> None:
    arguments = ["--model", model, "--beta", "0.04", "--rounds", "1", "--steps", "1"]
    result = run_script(BENCHMARKS / "whole_run.py", *arguments, cwd=BENCHMARKS)
    assert result.returncode == 0, result.stdout + result.stderr
    arms = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(("ours ", "TRL "))]
    assert arms[:4] == [[side, dtype] for dtype in ("float32", "bfloat16") for side in ("ours", "TRL")]
    assert "load a core" in result.stdout and "cores" in result.stdout
