"""Sigmoids: planted parameters come back, and what does not rise is not fitted."""

import numpy as np
import pytest

from analysis.stats.sigmoid import curve, fit_sigmoid


def test_planted_parameters_come_back() -> None:
    compute = np.linspace(0, 4e15, 13)
    values = np.concatenate([[0.55], curve(compute[1:], 0.55, 0.9, 2.0, 1e15)])
    made = fit_sigmoid(compute, values)
    assert made is not None
    assert made[:4] == pytest.approx((0.55, 0.9, 2.0, 1e15), rel=1e-3) and made.residual < 1e-6
    # (1 + (1/4)^2)^-1 of the rise is done at four times the midpoint.
    assert made.reached == pytest.approx(16 / 17, rel=1e-4)


def test_asymptotes_are_right_in_the_mean_with_the_noise_of_evaluations() -> None:
    rng = np.random.default_rng(0)
    compute = np.arange(0, 101, 5.0)
    truth = np.concatenate([[0.5], curve(compute[1:], 0.5, 0.85, 2.0, 20.0)])
    fits = [fit_sigmoid(compute, truth + rng.normal(0, 0.01, len(truth))) for _ in range(12)]
    asymptotes = [made.asymptote for made in fits if made is not None]
    assert len(asymptotes) == 12 and np.mean(asymptotes) == pytest.approx(0.85, abs=0.02)


def test_what_does_not_rise_is_not_fitted() -> None:
    assert fit_sigmoid(np.arange(9.0), np.linspace(0.5, 0.4, 9)) is None
