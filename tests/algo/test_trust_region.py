"""Trust regions by divergence, against formulas and loops."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirrorpo.algo.surrogate import Clipped, Unclipped
from mirrorpo.algo.trust_region import (
    NO_TRUST_REGION,
    DivergenceRegion,
    PrefixBudget,
    SmoothRegion,
    binary,
)
from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.f_divergence import ExactFDivergence
from mirrorpo.divergence.generators import TotalVariation
from mirrorpo.divergence.kl import K1
from mirrorpo.divergence.potentials import NegativeEntropy, Square

NAN, INF = float("nan"), float("inf")
TV = ExactFDivergence(generator=TotalVariation(), direction="reverse")
KL = ExactBregman(potential=NegativeEntropy(), direction="reverse")
PROBL2 = ExactBregman(potential=Square(factor=1.0), direction="reverse")
probabilities = st.floats(0.01, 0.99)


def factor(region, p: Tensor, q: Tensor, advantages: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of the policy's and the old policy's probabilities of the sampled tokens."""
    mask = torch.ones_like(p, dtype=torch.bool) if mask is None else mask
    return region(region.distance(q.log(), p.log()), p.log() - q.log(), advantages, mask)


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@given(p=probabilities, q=probabilities, advantage=st.sampled_from([-1.5, 0.0, 2.0]))
def test_the_region_is_the_published_mask_of_both_binary_divergences(p, q, advantage):
    low, high = 0.1, 0.15
    of_tv = abs(p - q)
    of_kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    for divergence, distance in ((TV, of_tv), (KL, of_kl)):
        region = DivergenceRegion(divergence=divergence, over="binary", low=low, high=high)
        assert float(region.distance(one(q).log(), one(p).log())) == pytest.approx(distance, abs=1e-9)
        if min(abs(distance - low), abs(distance - high)) < 1e-6:
            continue
        kept_up, kept_down = distance <= high or p <= q, distance <= low or p >= q
        kept = {1: kept_up, 0: True, -1: kept_down}[(advantage > 0) - (advantage < 0)]
        assert float(factor(region, one(p), one(q), one(advantage))) == float(kept)


def test_a_region_without_end_and_no_region_change_nothing_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    p, q, advantages = (torch.rand(4, 6, dtype=torch.float64, generator=draw) for _ in range(3))
    for region in (
        NO_TRUST_REGION,
        DivergenceRegion(divergence=TV, over="binary", low=INF, high=INF),
        DivergenceRegion(divergence=PROBL2, over="binary", low=INF, high=INF),
        SmoothRegion(divergence=TV, over="binary", delta=INF),
        PrefixBudget(divergence=TV, over="binary", delta=INF, power=1.0, budget=INF),
    ):
        assert torch.equal(factor(region, p, q, advantages - 0.5), torch.ones_like(p))


@pytest.mark.parametrize("divergence", [TV, KL, PROBL2])
def test_as_long_as_the_policy_is_the_old_one_every_factor_is_one(divergence):
    q = torch.tensor([[0.3, 1.0, 1e-6]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    for region in (
        DivergenceRegion(divergence=divergence, over="binary", low=1e-9, high=1e-9),
        SmoothRegion(divergence=divergence, over="binary", delta=1e-3),
        PrefixBudget(divergence=divergence, over="binary", delta=1e-9, power=0.0, budget=1e-9),
    ):
        assert torch.equal(factor(region, q, q, advantages), torch.ones_like(q))


def test_binary_total_variation_is_ppos_clip_where_the_old_probability_is_delta_over_epsilon_and_only_there():
    delta, epsilon = 0.06, 0.2
    region = DivergenceRegion(divergence=TV, over="binary", low=delta, high=delta)
    clip = Clipped(low=epsilon, high=epsilon)
    ratios = torch.linspace(0.5, 1.5, 201, dtype=torch.float64)[None]
    ratios = ratios[(ratios - 0.8).abs().gt(1e-6) & (ratios - 1.2).abs().gt(1e-6)][None]
    agrees = {}
    for old in (delta / epsilon, 0.1, 0.6):
        q = torch.full_like(ratios, old)
        outside = []
        for sign in (1.0, -1.0):
            advantages = torch.full_like(ratios, sign)
            masked_out = factor(region, ratios * q, q, advantages) == 0
            outside.append(torch.equal(masked_out, clip.clipped(ratios.log(), advantages)))
        agrees[old] = all(outside)
    assert agrees == {delta / epsilon: True, 0.1: False, 0.6: False}
    # A rare token may grow by far more than the clip lets it, a frequent one by less.
    up = torch.ones(1, 1, dtype=torch.float64)
    assert float(factor(region, one(0.04), one(0.01), up)) == 1 and bool(clip.clipped(one(4.0).log(), up))
    assert float(factor(region, one(0.67), one(0.6), up)) == 0 and not bool(clip.clipped(one(1.12).log(), up))


@given(p=probabilities, q=probabilities, advantage=st.floats(-2, 2))
def test_the_smooth_region_has_the_gradient_of_a_quadratic_pull_back(p, q, advantage):
    region = SmoothRegion(divergence=TV, over="binary", delta=0.2)
    log_p = one(p).log().requires_grad_()
    log_ratio = log_p - math.log(q)
    ours = (factor(region, one(p), one(q), one(advantage)) * Unclipped()(log_ratio, one(advantage))).sum()
    pulled = (log_ratio.exp() * advantage - abs(advantage) * (log_p.exp() - q) ** 2 / (2 * 0.2 * q)).sum()
    (mine,), (its,) = (torch.autograd.grad(value, log_p) for value in (ours, -pulled))
    torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-9)


def test_the_smooth_factor_is_zero_at_delta_turns_round_beyond_and_helps_back():
    region = SmoothRegion(divergence=TV, over="binary", delta=0.2)
    p = torch.tensor([[0.5, 0.7, 0.9, 0.4]], dtype=torch.float64)
    ours = factor(region, p, torch.full_like(p, 0.5), torch.ones_like(p))
    torch.testing.assert_close(ours, torch.tensor([[1.0, 0.0, -1.0, 1.5]], dtype=torch.float64))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_prefix_budget_is_that_of_a_loop_over_trained_tokens(power):
    draw = torch.Generator().manual_seed(1)
    p, q = (0.05 + 0.9 * torch.rand(30, 9, dtype=torch.float64, generator=draw) for _ in range(2))
    advantages = torch.randn(30, 9, dtype=torch.float64, generator=draw)
    mask = torch.rand(30, 9, generator=draw) < 0.7
    p, q = (values.where(mask, torch.full_like(values, 0.5)) for values in (p, q))
    region = PrefixBudget(divergence=TV, over="binary", delta=0.2, power=power, budget=0.6)
    ours = factor(
        region,
        p.where(mask, torch.tensor(0.5).double()),
        q.where(mask, torch.tensor(0.5).double()),
        advantages,
        mask,
    )
    kinds = set()
    for row in range(30):
        tokens = [t for t in range(9) if mask[row, t]]
        used = 0.0
        for place, t in enumerate(tokens, start=1):
            distance = abs(float(p[row, t] - q[row, t]))
            delta = 0.2 * (len(tokens) / (len(tokens) - place + 1)) ** power
            away = float(advantages[row, t] * (p[row, t] - q[row, t])) > 0
            far, spent = distance > delta, used > 0.6
            assert float(ours[row, t]) == float(not (away and (far or spent)))
            kinds |= {(away, far, spent)}
            used += distance
    assert len(kinds) == 8


def test_nan_under_the_mask_reaches_no_token_that_counts():
    mask = torch.tensor([[True, False, True]])
    p = torch.tensor([[0.5, NAN, 0.9]], dtype=torch.float64)
    region = PrefixBudget(divergence=TV, over="binary", delta=0.2, power=1.0, budget=0.1)
    ours = factor(region, p, torch.full_like(p, 0.3), torch.ones_like(p), mask)
    assert bool(ours[mask].isfinite().all())


def test_two_points_carry_all_of_the_probability_and_a_certain_token_stays_finite():
    pair = binary(torch.tensor([0.25, 1.0, 1e-30], dtype=torch.float64).log())
    torch.testing.assert_close(pair.exp().sum(-1), torch.ones(3, dtype=torch.float64), rtol=1e-7, atol=0)
    assert bool(pair.isfinite().all())


def test_bounds_that_bound_nothing_sensible_and_divergences_at_a_token_are_refused():
    good = DivergenceRegion(divergence=TV, over="binary", low=0.1, high=0.1)
    for setting, message in (({"low": 0.0}, "trust_region.low=0"), ({"high": NAN}, "trust_region.high=nan")):
        with pytest.raises(ValueError, match=message):
            replace(good, **setting)
    with pytest.raises(ValueError, match=r"trust_region\.delta=-1"):
        SmoothRegion(divergence=TV, over="binary", delta=-1.0)
    with pytest.raises(ValueError, match=r"trust_region\.budget=0"):
        PrefixBudget(divergence=TV, over="binary", delta=0.1, power=0.0, budget=0.0)
    with pytest.raises(ValueError, match=r"trust_region\.power=-1"):
        PrefixBudget(divergence=TV, over="binary", delta=0.1, power=-1.0, budget=1.0)
    with pytest.raises(ValueError, match=r"trust_region\.divergence=K1: it reads a token"):
        DivergenceRegion(divergence=K1(), over="binary", low=0.1, high=0.1)
