import math

import pytest

from mirrorpo.tools.strength import Strength, main, rows


def test_the_coefficient_is_the_ratio_over_the_measured_one() -> None:
    entry = Strength(steps=10, policy=0.012, penalty=0.03)
    assert entry.beta(0.5) == pytest.approx(0.2)
    assert math.isinf(Strength(steps=1, policy=0.012, penalty=0.0).beta(0.5))
    assert rows("kl", [entry], [0.5, 1.0]) == ["| kl | 10 | 0.012 | 0.03 | 0.2 | 0.4 |"]


@pytest.mark.parametrize("arguments", [["--after", "0"], ["--ratio", "-1"], ["--batches", "0"]])
def test_the_start_has_no_ratio(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="give positive ones"):
        main(arguments)


@pytest.mark.slow
def test_a_penalty_of_twice_the_size_needs_half_the_coefficient(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model=ledger", "algo=dr_grpo", "threads=1", "--after", "2", "--batches", "2", "--ratio", "1"]
    betas = []
    for factor in ("1.0", "2.0"):
        main(["divergence=probl2", f"divergence.potential.factor={factor}", *small])
        betas.append(float(capsys.readouterr().out.splitlines()[-1].split("|")[-2]))
    assert betas[0] == pytest.approx(2 * betas[1], rel=0.02)
