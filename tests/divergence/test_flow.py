"""Ends of the flow against closed forms that were derived by hand, and against the flow in small steps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mirrorpo.divergence.bregman import CorrectedBregman, ExactBregman, SampledBregman
from mirrorpo.divergence.chi2 import ChiSquare
from mirrorpo.divergence.f_divergence import ExactFDivergence, Renyi
from mirrorpo.divergence.flow import bregman_ending, ending, equal_strength, pull
from mirrorpo.divergence.generators import JensenShannon, SquaredHellinger
from mirrorpo.divergence.kl import K1, K2, K3, LogGap
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.potentials import NegativeEntropy, Square

Q = torch.tensor([[0.6, 0.05, 0.05, 0.3], [0.3, 0.1, 0.2, 0.4]], dtype=torch.float64)
R = torch.tensor([[1.0, 1.0, 1.5, 0.0], [0.0, 1.0, 0.5, 2.0]], dtype=torch.float64)
BETA = 0.7

KL: Any = ExactBregman(potential=NegativeEntropy(), direction="reverse")
FORWARD: Any = ExactBregman(potential=NegativeEntropy(), direction="forward")
PROBL2: Any = ExactBregman(potential=Square(factor=1.0), direction="reverse")


def solved(policy_at: Callable[[Tensor], Tensor], low: float, high: float) -> Tensor:
    """The policy of the level at which it sums to 1; `policy_at` falls with the level."""
    lows, highs = torch.full((len(Q), 1), low).double(), torch.full((len(Q), 1), high).double()
    for _ in range(200):
        middle = (lows + highs) / 2
        above = policy_at(middle).sum(-1, keepdim=True) > 1
        lows, highs = torch.where(above, middle, lows), torch.where(above, highs, middle)
    return policy_at(lows)


def reverse_kl(beta: float) -> Tensor:
    return (Q.log() + R / beta).softmax(-1)


def forward_kl() -> Tensor:
    top = R.max(-1, keepdim=True).values
    return solved(lambda level: BETA * Q / (top + level - R), 1e-9, 50.0)


CLOSED: dict[str, tuple[Any, Callable[[], Tensor]]] = {
    "reverse KL is an exponential tilt": (KL, lambda: reverse_kl(BETA)),
    "k2 is reverse KL": (K2(), lambda: reverse_kl(BETA)),
    "the squared log-gap is twice that": (LogGap(), lambda: reverse_kl(2 * BETA)),
    "forward KL": (FORWARD, forward_kl),
    "k3 is forward KL, whatever its name": (K3(), forward_kl),
    "k3 over the drawing probability is reverse KL": (
        CorrectedBregman(potential=NegativeEntropy()),
        lambda: reverse_kl(BETA),
    ),
    "chi-square": (
        ChiSquare(),
        lambda: solved(lambda level: (Q * (1 + (R - level) / (2 * BETA))).clamp(min=0), -50.0, 50.0),
    ),
    "ProbL2 moves every answer by the same, whatever its probability": (
        PROBL2,
        lambda: solved(lambda level: (Q + (R - level) / (2 * BETA)).clamp(min=0), -50.0, 50.0),
    ),
    "squared Hellinger": (
        ExactFDivergence(generator=SquaredHellinger(), direction="reverse"),
        lambda: solved(
            lambda level: (
                Q / (1 + 2 * (level - R + R.max(-1, keepdim=True).values - BETA / 2) / BETA).square()
            ),
            1e-9,
            50.0,
        ),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_ends_in_closed_form(name: str) -> None:
    divergence, expected = CLOSED[name]
    end = ending(divergence, BETA, R, Q)
    assert end.at_rest
    torch.testing.assert_close(end.policy, expected(), rtol=1e-5, atol=1e-5)


def small_steps(divergence: Any, beta: float, steps: int = 700) -> Tensor:
    # The expected policy gradient of a softmax, every answer enumerated.
    logits, log_q = Q.log(), Q.log()
    for _ in range(steps):
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        g = R - beta * pull(divergence, log_p, log_q)
        logits = logits + 0.4 * p * (g - (p * g).sum(-1, keepdim=True))
    return logits.softmax(-1)


@pytest.mark.slow
def test_ends_are_where_a_softmax_policy_comes_to_rest_in_small_steps() -> None:
    arms: dict[str, tuple[Any, float]] = {
        "js": (ExactFDivergence(generator=JensenShannon(), direction="reverse"), 2.0),
        "probl2, sampled": (SampledBregman(potential=Square(factor=1.0)), 5.0),
        "renyi": (Renyi(alpha=0.5, direction="reverse"), 1.0),
    }
    for name, (divergence, beta) in arms.items():
        end = ending(divergence, beta, R, Q).policy
        far = (end - Q).abs().max()
        torch.testing.assert_close(small_steps(divergence, beta), end, rtol=0, atol=0.01, msg=name)
        assert far > 0.1, name


def test_the_pull_is_what_automatic_differentiation_gives_in_expectation() -> None:
    # By hand at one policy: sum_v p_v h_v grad log p_v is the gradient of the expected loss.
    log_p = torch.tensor([[0.5, 0.2, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log()
    p = log_p.exp()
    torch.testing.assert_close(pull(PROBL2, log_p, Q.log()), 2 * (p - Q))
    torch.testing.assert_close(
        pull(SampledBregman(potential=Square(factor=1.0)), log_p, Q.log()), 2 * p * (p - Q)
    )
    torch.testing.assert_close(pull(K3(), log_p, Q.log()), 1 - Q / p)
    torch.testing.assert_close(pull(K1(), log_p, Q.log()), torch.ones_like(p))


def test_without_a_penalty_the_best_paid_answer_takes_all_and_equal_ones_keep_their_ratio() -> None:
    end = ending(NoDivergence(), 0.0, R, Q).policy
    torch.testing.assert_close(end, torch.eye(4).double()[[2, 3]], rtol=0, atol=1e-6)
    tied = ending(NoDivergence(), 0.0, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), Q[:1]).policy
    torch.testing.assert_close(tied, torch.tensor([[12 / 13, 1 / 13, 0, 0]]).double(), rtol=0, atol=1e-5)


def test_where_rewards_are_0_or_1_every_f_divergence_scales_right_answers_alike_and_probl2_does_not() -> None:
    # So f-divergences of equal strength end at one policy there, whatever their form.
    gold = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double()
    js: Any = ExactFDivergence(generator=JensenShannon(), direction="reverse")
    for divergence in (KL, FORWARD, ChiSquare(), js):
        right, rare, *wrong = (ending(divergence, BETA, gold, Q[:1]).policy / Q[:1])[0].tolist()
        assert right == pytest.approx(rare, rel=1e-4) and right > 1.1
        assert wrong[0] == pytest.approx(wrong[1], rel=1e-4)
    right, rare, *_ = (ending(PROBL2, BETA, gold, Q[:1]).policy / Q[:1])[0].tolist()
    assert rare > 3 * right


def test_no_coefficient_where_none_reaches_the_target() -> None:
    assert equal_strength(lambda beta: 0.5, 0.8) is None
    assert equal_strength(lambda beta: 1 / (1 + beta / 1000), 0.5) == pytest.approx(1000, rel=1e-4)


@pytest.mark.parametrize("target", [0.55, 0.7, 0.8, 0.93])
def test_a_coefficient_is_that_of_plain_halving_at_half_the_cost(target: float) -> None:
    asked: list[float] = []

    def reached(beta: float) -> float:
        asked.append(beta)
        return 1 / (1 + 0.25 * beta**1.5)

    found = equal_strength(reached, target)
    cost = len(asked)
    # From 1 in steps of ten, then halves of the logarithm.
    low = 0.0
    while reached(math.exp(low)) <= target:
        low -= math.log(10.0)
    while reached(math.exp(low + math.log(10.0))) > target:
        low += math.log(10.0)
    high = low + math.log(10.0)
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(math.exp(middle)) > target else (low, middle)
    assert found == math.exp((low + high) / 2) and cost <= 14


def test_the_end_under_a_bregman_divergence_needs_no_flow() -> None:
    kl = bregman_ending(NegativeEntropy().df, BETA, R, Q)
    assert torch.allclose(kl, reverse_kl(BETA), atol=3e-4)
    probl2 = solved(lambda level: (Q + (R - level) / (2 * BETA)).clamp(min=0), -50.0, 50.0)
    assert torch.allclose(bregman_ending(Square(factor=1.0).df, BETA, R, Q), probl2, atol=3e-4)
