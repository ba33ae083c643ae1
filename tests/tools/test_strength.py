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


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    main(["model=ledger", "algo=dr_grpo", "threads=1", "--batches", "1", "--ratio", "1", *arguments])
    return [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]


@pytest.mark.slow
def test_the_cell_trains_by_its_schedule_and_its_anchor_moves(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ["divergence=kl_exact", "steps=2", "--after", "2"]
    [held] = table(capsys, *cell)
    # A learning rate of nothing leaves the start model, from which no divergence has a gradient.
    [still] = table(
        capsys,
        *cell,
        "schedule=linear",
        "schedule.decay_from=0.0",
        "schedule.floor=0.0",
        "schedule.warmup=0.99",
    )
    assert still[3] != held[3]
    # An anchor that follows at once is the policy itself.
    [followed] = table(capsys, *cell, "anchor=ema", "anchor.decay=0.0")
    assert float(followed[3]) < 1e-3 * float(held[3])


def test_a_run_that_ends_before_is_refused() -> None:
    with pytest.raises(SystemExit, match="--after=3: the run has steps=2; give steps=3"):
        main(["model=ledger", "threads=1", "steps=2", "--after", "3"])


def test_what_re_rolls_is_refused() -> None:
    with pytest.raises(SystemExit, match="weighting: it re-rolls"):
        main(["model=ledger", "threads=1", "weighting=segment_rollout", "--after", "1"])
