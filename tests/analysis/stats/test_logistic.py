"""The hierarchical logistic posterior: its mode and evidence by brute force, and its coverage."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit

from analysis.stats.logistic import MEAN_PRIOR, _design, _mode, logistic_posterior

Scores = NDArray[np.float64]


def planted(
    rng: np.random.Generator, seeds: int, questions: int, delta: float, luck: float
) -> tuple[Scores, Scores]:
    b, d = rng.normal(0, 1.5, questions), rng.normal(0, 0.5, questions)
    chances = (1 + shift + rng.normal(0, luck, (seeds, 1)) for shift in (delta + b + d, b))
    ours, theirs = (rng.binomial(1, expit(chance)).astype(float) for chance in chances)
    return ours, theirs


def test_the_mode_is_that_of_a_general_optimiser_and_the_covariance_its_inverse_curvature() -> None:
    rng = np.random.default_rng(0)
    right = np.concatenate(planted(rng, 2, 6, 0.5, 0.2))
    spreads = np.array([1.5, 0.5, 0.2])
    made = _mode(right, 1, spreads, None)
    x, z = _design(2)
    prior = np.concatenate([[MEAN_PRIOR**-2] * 2, np.full(4, 0.2**-2), np.tile([1.5**-2, 0.5**-2], 6)])

    def loss(parameters: Scores) -> float:
        eta = (x @ parameters[:6])[:, None] + z @ parameters[6:].reshape(6, 2).T
        return float((np.logaddexp(0, eta) - right * eta).sum() + 0.5 * (prior * parameters**2).sum())

    best = optimize.minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-7})
    assert np.concatenate([made.fixed, made.questions.ravel()]) == pytest.approx(best.x, abs=1e-4)
    # Curvature by differences of the whole loss.
    step, eye = 1e-3, np.eye(18)
    at = best.x
    curvature = [
        [
            (
                loss(at + step * (a + b))
                - loss(at + step * (a - b))
                - loss(at - step * (a - b))
                + loss(at - step * (a + b))
            )
            / (4 * step**2)
            for b in eye
        ]
        for a in eye
    ]
    assert made.covariance == pytest.approx(np.linalg.inv(np.array(curvature))[:6, :6], rel=1e-3, abs=1e-5)
    logdet = np.linalg.slogdet(np.array(curvature))[1]
    assert made.evidence == pytest.approx(-loss(at) + 0.5 * np.log(prior).sum() - 0.5 * logdet, abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_intervals_hold_what_was_planted_as_often_as_they_say() -> None:
    rng, held, sweeps = np.random.default_rng(1), 0, 80
    for _ in range(sweeps):
        made = logistic_posterior(*planted(rng, 5, 150, 0.3, 0.15))
        held += made.logit.low <= 0.3 <= made.logit.high
    print(f"\n5 seeds, 150 questions: {held / sweeps:.1%} of 95% intervals hold the planted 0.3")
    assert held / sweeps >= 0.95 - 3 * (0.95 * 0.05 / sweeps) ** 0.5
