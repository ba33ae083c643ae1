"""Error spent over looks: published bounds, and the level of looks at simulated seeds."""

import numpy as np
import pytest
from scipy import stats

from analysis.stats.components import components, sampling_variance
from analysis.stats.spending import look_bounds, nominal, sequential_p, spent


def test_the_bounds_are_the_published_ones() -> None:
    # Lan and DeMets with O'Brien and Fleming's function, two-sided 5%: Jennison and Turnbull 2000, ldbounds.
    assert look_bounds((0.2, 0.4, 0.6, 0.8, 1.0)) == pytest.approx(
        [4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4
    )
    assert look_bounds((1 / 3, 2 / 3, 1.0)) == pytest.approx([3.7103, 2.5114, 1.9930], abs=2e-4)
    assert look_bounds((1.0,)) == pytest.approx([stats.norm.ppf(0.975)])
    assert spent(1.0) == pytest.approx(0.05) and spent(0.5) == pytest.approx(nominal([0.5]))


def test_p_of_a_look_is_the_error_at_which_it_makes_a_claim() -> None:
    shares = [1 / 3, 1.0]
    for error in (0.01, 0.05, 0.2):
        assert sequential_p(nominal(shares, error), shares) == pytest.approx(error, rel=1e-3)
    assert sequential_p(0.03, [1.0]) == 0.03 and sequential_p(1.0, [0.5]) == 1.0
    assert sequential_p(0.0, [0.2]) < 1e-9
    assert (nominal([1 / 3]) < 0.001) and 0.03 < sequential_p(nominal([1 / 3]), [1 / 3]) < 0.06


def claims(rng: np.random.Generator, looks: list[int], levels: list[float], effect: float = 0.0) -> float:
    """The share of sweeps that claim a difference at some look, Student's t over the seeds so far."""
    gaps = rng.normal(effect, 1.0, size=(20_000, looks[-1]))
    claimed = np.zeros(len(gaps), dtype=bool)
    for n, level in zip(looks, levels, strict=True):
        t = gaps[:, :n].mean(axis=1) / (gaps[:, :n].std(axis=1, ddof=1) / n**0.5)
        claimed |= 2 * stats.t.sf(np.abs(t), n - 1) < level
    return float(claimed.mean())


def test_looks_err_at_the_level_where_the_error_is_spent_and_above_it_where_it_is_not() -> None:
    rng = np.random.default_rng(0)
    for looks, most in (([5, 10, 15], 0.0515), ([3, 6], 0.0525), ([3, 4, 5, 6, 7, 8], 0.0565)):
        shares = [n / looks[-1] for n in looks]
        levels = [nominal(shares[: index + 1]) for index in range(len(looks))]
        # The bounds are the normal path's: with Student's t looks after every seed err in half a point more.
        # Three standard errors of 20,000 sweeps are half a point.
        assert claims(rng, looks, levels) <= most + 0.005, looks
        assert claims(rng, looks, [0.05] * len(looks)) > 0.07, looks
        # What it costs at the end is a few points of power.
        effect = 2.8 / looks[-1] ** 0.5
        once = claims(rng, looks[-1:], [0.05], effect)
        assert claims(rng, looks, levels, effect) > once - 0.04, looks


def test_components_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(1)
    made = []
    for _ in range(60):
        gaps = 0.1 + rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.1, (1, 300)) + rng.normal(0, 0.2, (6, 300))
        made.append(components(gaps, prediction=0.03))
    seeds, questions, interaction, prediction = np.mean([parts[:4] for parts in made], axis=0)
    assert seeds == pytest.approx(0.02**2, rel=0.25) and questions == pytest.approx(0.1**2, rel=0.05)
    assert interaction == pytest.approx(0.01, rel=0.05) and prediction == pytest.approx(0.03)
    parts = made[0]._replace(seeds=0.06, questions=0.3, interaction=9.0, prediction=9.0)
    assert parts.variance() == pytest.approx(0.01 + 0.001 + 0.01)
    assert parts.variance(seeds=2) == pytest.approx(0.005 + 0.001 + 0.005)
    assert parts.variance(questions=2) == pytest.approx(0.01 + 0.0005 + 0.005)
    assert parts.variance(samples=2) == pytest.approx(0.01 + 0.001 + 0.0075)


def test_the_variance_of_sampled_shares_is_unbiased() -> None:
    rng = np.random.default_rng(2)
    chance = rng.random((4, 500))
    shares = rng.binomial(5, chance, size=(200, 4, 500)) / 5
    planted = float((chance * (1 - chance) / 5).mean())
    assert np.mean([sampling_variance(draw, 5) for draw in shares]) == pytest.approx(planted, rel=0.01)
    assert sampling_variance(shares[0], 1) == 0.0
