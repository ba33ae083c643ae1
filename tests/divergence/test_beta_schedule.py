import math

import pytest

from mirrorpo.divergence.beta_schedule import Fixed, MatchedDrift

STEER = {"measure": "drift/kl", "target": 0.1, "gain": 0.3, "most": 1.5, "least_beta": 1e-6, "most_beta": 1e6}


def test_a_fixed_coefficient_stays():
    assert Fixed().after(0.04, {}) == 0.04


def test_beta_rises_above_the_target_falls_below_it_and_stands_still_on_it():
    steer = MatchedDrift(**STEER)
    assert steer.after(2.0, {"drift/kl": 0.2}) == pytest.approx(2.0 * 2**0.3)
    assert steer.after(2.0, {"drift/kl": 0.05}) == pytest.approx(2.0 / 2**0.3)
    assert steer.after(2.0, {"drift/kl": 0.1}) == 2.0


@pytest.mark.parametrize("drift", [0.0, 1e-300, 1e9])
def test_one_step_changes_beta_by_a_bounded_factor(drift: float):
    assert abs(math.log(MatchedDrift(**STEER).after(1.0, {"drift/kl": drift}))) == pytest.approx(
        math.log(1.5)
    )


def test_beta_never_falls_so_low_that_it_cannot_come_back():
    steer = MatchedDrift(**STEER)
    assert steer.after(1e-6, {"drift/kl": 0.0}) == 1e-6
    assert steer.after(1e-6, {"drift/kl": 1.0}) > 1e-6


def test_beta_never_rises_out_of_bounds_while_nothing_answers():
    steer, beta = MatchedDrift(**STEER), 0.04
    for _ in range(3000):
        beta = steer.after(beta, {"drift/kl": 10.0})
    assert beta == 1e6


def test_the_measure_that_is_named_is_the_one_that_is_read():
    steer = MatchedDrift(**STEER | {"measure": "drift/tv"})
    assert steer.after(1.0, {"drift/kl": 9.0, "drift/tv": 0.1}) == 1.0


@pytest.mark.parametrize("start", [1e-4, 1e2])
@pytest.mark.parametrize("strength", [1e-2, 1e2])
def test_a_drift_that_answers_to_beta_comes_to_its_target_from_betas_six_powers_of_ten_apart(
    start: float, strength: float
):
    # A first-order system: the drift goes half of the way to where beta would let it settle.
    steer, beta, drift = MatchedDrift(**STEER), start, 0.0
    for _ in range(150):
        drift += 0.5 * (1 / (1 + strength * beta) - drift)
        beta = steer.after(beta, {"drift/kl": drift})
    assert drift == pytest.approx(0.1, rel=1e-3)
    assert beta == pytest.approx(9 / strength, rel=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 0.0},
        {"target": math.inf},
        {"gain": 0.0},
        {"most": 1.0},
        {"least_beta": 0.0},
        {"most_beta": 1e-7},
        {"most_beta": math.inf},
        {"target": math.nan},
    ],
)
def test_settings_that_cannot_steer_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="beta_schedule"):
        MatchedDrift(**STEER | wrong)
