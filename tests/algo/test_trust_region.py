"""Trust regions by divergence, against formulas and loops."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirrorpo.algo.surrogate import Clipped, Unclipped
from mirrorpo.algo.trust_region import (
    NO_TRUST_REGION,
    DivergenceRegion,
    PrefixBudget,
    SmoothRegion,
    binary,
    bins,
)
from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.f_divergence import ExactFDivergence
from mirrorpo.divergence.generators import SquaredHellinger, TotalVariation
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


@settings(deadline=None)
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


@settings(deadline=None)
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


# ---------------------------------------------------------------- the old policy's likeliest tokens

V = 11
HELLINGER = ExactFDivergence(generator=SquaredHellinger(), direction="reverse")
# The published bins' terms, by formula; of policy p and old policy q.
TERMS: dict[str, Callable[[float, float], float]] = {
    "tv": lambda p, q: abs(p - q) / 2,
    "kl": lambda p, q: q * math.log(q / p) - q + p,
    "probl2": lambda p, q: (p - q) ** 2,
}


def two(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Tables of old policy and policy."""
    draw = torch.Generator().manual_seed(0)
    old, shift = (2 * torch.randn(2, 6, V, dtype=torch.float64, generator=draw)).to(dtype)
    return old.log_softmax(-1), (old + shift / 3).log_softmax(-1)


def over(kind: str, divergence: ExactBregman | ExactFDivergence, k: int | None = None) -> DivergenceRegion:
    return DivergenceRegion(divergence=divergence, over=kind, k=k, low=0.1, high=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_token_is_binary_and_all_tokens_are_exact_to_the_bit(dtype):
    old, policy = two(dtype)
    for divergence in (TV, KL, PROBL2, HELLINGER):
        at_token = over("binary", divergence).distance(old, policy)
        assert torch.equal(over("top", divergence, 0).distance(old, policy), at_token)
        exact = over("vocabulary", divergence).distance(old, policy)[:, None].expand(-1, V)
        for k in (V, V + 60):
            assert torch.equal(over("top", divergence, k).distance(old, policy), exact)
    # The parts that a trainer puts together are the binary form too.
    none = old[..., None][..., :0]
    assert torch.equal(bins(none, old, torch.zeros_like(old, dtype=torch.bool)), binary(old))
    assert over("top", TV, 0).reads == "sampled" and over("top", TV, 3).reads == "top"


@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_the_top_form_is_a_sum_over_bins(k):
    old, policy = two()
    for name, divergence in (("tv", TV), ("kl", KL), ("probl2", PROBL2)):
        ours, of_bin = over("top", divergence, k).distance(old, policy), TERMS[name]
        for row in range(len(old)):
            q, p = old[row].exp().tolist(), policy[row].exp().tolist()
            likely = sorted(range(V), key=q.__getitem__)[-k:]
            for token in range(V):
                kept = {*likely, token}
                distance = sum(of_bin(p[v], q[v]) for v in kept)
                if len(kept) < V:
                    distance += of_bin(*(1 - sum(table[v] for v in kept) for table in (p, q)))
                assert float(ours[row, token]) == pytest.approx(distance, abs=1e-7)


def test_the_top_form_lies_between_binary_and_exact_and_rises_with_k():
    # Bins that are merged are nearer; the sum of squares of probabilities is no such divergence.
    old, policy = two()
    for divergence in (TV, KL, HELLINGER):
        forms = [over("top", divergence, k).distance(old, policy) for k in range(V + 1)]
        for coarse, fine in pairwise(forms):
            assert bool((coarse <= fine + 1e-9).all())
        assert float((forms[-1] - forms[0]).max()) > 1e-3
        same = over("top", divergence, 4).distance(old, old)
        assert float(same.abs().max()) < 1e-15


def test_a_number_of_tokens_is_wanted_where_it_is_read_and_there_alone():
    for k in (None, -1):
        with pytest.raises(ValueError, match=rf"trust_region\.k={k}"):
            over("top", TV, k)
    assert over("binary", TV).top == over("vocabulary", TV, 5).top == 0


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
