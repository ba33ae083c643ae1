"""A hierarchical logistic posterior of two arms on the same questions: a second opinion beside the verdicts.

    y_asq ~ Binomial(n, sigma(eta_asq)),  eta = mu + b_q + v_as + [a = arm] (delta + d_q)
    b_q ~ N(0, tau_b^2),  d_q ~ N(0, tau_d^2),  v_as ~ N(0, tau_v^2)

Laplace's approximation at the mode of all effects for given spreads; the spreads of questions at their most
likely values, the spread of seeds, which few seeds hardly know, integrated over a grid.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit, ndtr

from analysis.stats.intervals import LEVEL, Interval

# Scales of half-normal priors of tau_b, tau_d, tau_v, and of normal ones of mu and delta, on the logit.
SPREAD_PRIORS, MEAN_PRIOR = np.array([1.5, 1.0, 0.5]), 3.0
GRID = np.geomspace(0.01, 1.5, 13)
STEPS, DRAWS = 60, 4000


class Posterior(NamedTuple):
    """What is believed of an arm's difference from the baseline.

    Attributes:
        logit: delta with its interval.
        points: the difference of mean accuracies on these questions, as shares, with its interval.
        better: probability that delta is above 0.
        seed_spread: tau_v, its posterior mean.
    """

    logit: Interval
    points: Interval
    better: float
    seed_spread: float


class _Mode(NamedTuple):
    """The mode for given spreads: fixed effects with seeds, questions, their covariance, log evidence."""

    fixed: NDArray[np.float64]
    questions: NDArray[np.float64]
    covariance: NDArray[np.float64]
    evidence: float


def _design(seeds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows (arm, seed) by mu, delta and the luck of each arm's seeds; and by b and d of a question."""
    rows = 2 * seeds
    arm = np.repeat([1.0, 0.0], seeds)
    return np.column_stack([np.ones(rows), arm, np.eye(rows)]), np.column_stack([np.ones(rows), arm])


def _mode(right: NDArray[np.float64], n: int, spreads: NDArray[np.float64], start: _Mode | None) -> _Mode:
    """Newton's method, questions eliminated one by one; right[row, question] of rows (arm, seed).

    Args:
        right: how many of n answers are right.
        n: answers.
        spreads: tau_b, tau_d, tau_v.
        start: a mode near by.
    """
    rows, count = right.shape
    x, z = _design(rows // 2)
    prior = np.concatenate([[MEAN_PRIOR**-2] * 2, np.full(rows, spreads[2] ** -2)])
    of_question = spreads[:2] ** -2
    fixed = np.zeros(2 + rows) if start is None else start.fixed.copy()
    questions = np.zeros((count, 2)) if start is None else start.questions.copy()

    def joint(fixed: NDArray[np.float64], questions: NDArray[np.float64]) -> float:
        eta = (x @ fixed)[:, None] + z @ questions.T
        fit = float((right * eta - n * np.logaddexp(0, eta)).sum())
        return fit - 0.5 * float(prior @ fixed**2) - 0.5 * float((questions**2 @ of_question).sum())

    value = joint(fixed, questions)
    curvature = _curvature(x, z, right, n, prior, of_question, fixed, questions)
    for _ in range(STEPS):
        step, move = curvature.step()
        size = 1.0
        while (trial := joint(fixed + size * step, questions + size * move)) < value - 1e-9 and size > 1e-4:
            size /= 2
        fixed, questions, gained, value = fixed + size * step, questions + size * move, trial - value, trial
        curvature = _curvature(x, z, right, n, prior, of_question, fixed, questions)
        if abs(gained) < 1e-9:
            break
    logs = 0.5 * float(np.log(prior).sum()) + 0.5 * count * float(np.log(of_question).sum())
    covariance = np.asarray(np.linalg.inv(curvature.schur), dtype=np.float64)
    return _Mode(fixed, questions, covariance, value + logs - 0.5 * curvature.logdet)


class _Curvature(NamedTuple):
    """Gradient and curvature of the joint density, the questions' blocks eliminated.

    Attributes:
        schur: curvature of the fixed effects and seeds once questions follow them.
        blocks: of each question.
        solved: blocks^-1 times their part beside the fixed effects.
        to_fixed: gradient of the fixed effects, what questions take of it left out.
        own: blocks^-1 times the questions' gradient.
    """

    schur: NDArray[np.float64]
    blocks: NDArray[np.float64]
    solved: NDArray[np.float64]
    to_fixed: NDArray[np.float64]
    own: NDArray[np.float64]

    @property
    def logdet(self) -> float:
        """Of the whole curvature."""
        return float(np.linalg.slogdet(self.schur)[1] + np.linalg.slogdet(self.blocks)[1].sum())

    def step(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Newton's, of the fixed effects with seeds, and of the questions."""
        step = np.asarray(np.linalg.solve(self.schur, self.to_fixed), dtype=np.float64)
        return step, self.own - self.solved @ step


def _curvature(
    x: NDArray[np.float64],
    z: NDArray[np.float64],
    right: NDArray[np.float64],
    n: int,
    prior: NDArray[np.float64],
    of_question: NDArray[np.float64],
    fixed: NDArray[np.float64],
    questions: NDArray[np.float64],
) -> _Curvature:
    p = expit((x @ fixed)[:, None] + z @ questions.T)
    w, slack = n * p * (1 - p), right - n * p
    blocks = np.einsum("rq,ri,rj->qij", w, z, z) + np.diag(of_question)
    cross = np.einsum("rq,ri,rj->qij", w, x, z)
    solved = np.linalg.solve(blocks, cross.transpose(0, 2, 1))
    schur = (x.T * w.sum(axis=1)) @ x + np.diag(prior) - np.einsum("qij,qjk->ik", cross, solved)
    to_questions = slack.T @ z - questions * of_question
    own = np.linalg.solve(blocks, to_questions[:, :, None])[:, :, 0]
    to_fixed = x.T @ slack.sum(axis=1) - prior * fixed - np.einsum("qij,qj->i", cross, own)
    return _Curvature(schur, blocks, solved, to_fixed, own)


def _evidence(mode: _Mode, spreads: NDArray[np.float64]) -> float:
    """Log of the spreads' density, half-normal priors among it."""
    return mode.evidence - 0.5 * float(((spreads / SPREAD_PRIORS) ** 2).sum())


def logistic_posterior(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], n: int = 1, *, level: float = LEVEL, seed: int = 0
) -> Posterior:
    """The posterior of an arm's difference from the baseline.

    Args:
        ours: scores[seed, question] of the arm, each the share of right answers.
        theirs: of the baseline, on the same questions.
        n: answers that a score is of.
        level: of the intervals.
        seed: of the draws.

    References:
        Rue, Martino and Chopin 2009, integrated nested Laplace approximations; Gelman et al. 2013, chapter 5
    """
    right = n * np.concatenate([np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)])
    near: list[_Mode] = []

    def loss(logs: NDArray[np.float64]) -> float:
        spreads = np.exp(logs)
        made = _mode(right, n, spreads, near[-1] if near else None)
        near[:] = [made]
        return -_evidence(made, spreads) - float(logs.sum())

    best = optimize.minimize(
        loss,
        np.log([1.5, 0.4, 0.2]),
        method="Nelder-Mead",
        options={"xatol": 0.05, "fatol": 0.05, "maxfev": 80},
    )
    questions = np.exp(best.x[:2])
    grid = [np.append(questions, tau) for tau in GRID]
    modes = [_mode(right, n, spreads, near[0]) for spreads in grid]
    weights = np.array(
        [_evidence(mode, spreads) + np.log(spreads[2]) for mode, spreads in zip(modes, grid, strict=True)]
    )
    weights = np.exp(weights - weights.max())
    return _mixed(modes, weights / weights.sum(), level, np.random.default_rng(seed))


def _mixed(
    modes: list[_Mode], weights: NDArray[np.float64], level: float, rng: np.random.Generator
) -> Posterior:
    """The posterior over the grid, by draws of its normal parts."""
    deltas: list[NDArray[np.float64]] = []
    gaps: list[NDArray[np.float64]] = []
    for mode, count in zip(modes, rng.multinomial(DRAWS, weights), strict=True):
        if count:
            draws = rng.multivariate_normal(mode.fixed[:2], mode.covariance[:2, :2], size=count)
            b, d = mode.questions.T
            theirs = expit(draws[:, :1] + b).mean(axis=1)
            gaps.append(expit(draws.sum(axis=1, keepdims=True) + b + d).mean(axis=1) - theirs)
            deltas.append(draws[:, 1])
    delta, gap = np.concatenate(deltas), np.concatenate(gaps)
    ends = [(1 - level) / 2, (1 + level) / 2]
    logit, points = (
        Interval(float(values.mean()), *map(float, np.quantile(values, ends))) for values in (delta, gap)
    )
    above = sum(
        weight * float(ndtr(mode.fixed[1] / mode.covariance[1, 1] ** 0.5))
        for mode, weight in zip(modes, weights, strict=True)
    )
    return Posterior(logit, points, float(above), float(weights @ GRID))
