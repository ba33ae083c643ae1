import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.surrogate import Clipped, ClippedWeight, NegativeLogLikelihood, SoftGate, Unclipped

generated = settings(max_examples=80, deadline=None, derandomize=True, database=None)
bounds = st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.0, 0.01), (0.9, 5.0), (3e-4, 4e-4)])


SURROGATES = [
    Clipped(low=0.2, high=0.28),
    Clipped(low=0.2, high=0.28, dual_clip=2.5),
    Unclipped(),
    ClippedWeight(low=0.2, high=0.28),
    ClippedWeight(low=1.0, high=5.0),
    SoftGate(tau_positive=1.0, tau_negative=1.05),
    NegativeLogLikelihood(),
]


def grid(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of a ratio from far below to far above any trust region and an advantage of each sign."""
    ratio = torch.tensor(
        [1e-6, 0.3, 0.79, 0.81, 0.999, 1.0, 1.001, 1.19, 1.21, 1.27, 1.29, 3.0, 1e4], dtype=dtype
    )
    advantage = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=dtype)
    return ratio.log()[None, :].expand(5, -1).clone(), advantage[:, None].expand(-1, ratio.numel()).clone()


def gradient(surrogate, log_ratio, advantage):
    leaf = log_ratio.detach().clone().requires_grad_()
    return torch.autograd.grad(surrogate(leaf, advantage).sum(), leaf)[0]


@generated
@given(st.floats(-20, 20), st.floats(-5, 5), bounds)
def test_clipped_equals_the_oracle(log_ratio, advantage, low_high):
    low, high = low_high
    ours = Clipped(low=low, high=high)(
        torch.tensor([[log_ratio]], dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    )
    expected = oracles.clipped(math.exp(log_ratio), advantage, low, high)
    torch.testing.assert_close(float(ours), float(expected), rtol=1e-12, atol=1e-15)


def test_clipped_by_hand():
    # A = 1: r = 1.5 is cut to 1 + 0.28, r = 0.5 is not cut. A = -1: r = 0.5 is cut to 1 - 0.2, r = 1.5 is not
    # cut.
    log_ratio = torch.tensor([[1.5, 0.5, 0.5, 1.5]]).log()
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    torch.testing.assert_close(
        Clipped(low=0.2, high=0.28)(log_ratio, advantage),
        torch.tensor([[-1.28, -0.5, 0.8, 1.5]]),
        rtol=1e-6,
        atol=0,
    )


def test_a_dual_clip_bounds_what_a_bad_token_that_ran_away_weighs_and_changes_nothing_else():
    plain, dual = Clipped(low=0.2, high=0.28), Clipped(low=0.2, high=0.28, dual_clip=2.0)
    log_ratio, advantage = grid()
    far = (log_ratio.exp() > 2) & (advantage < 0)
    assert bool(far.any())
    for of_dual, of_plain, bound in (
        (dual(log_ratio, advantage), plain(log_ratio, advantage), -2 * advantage),
        (gradient(dual, log_ratio, advantage), gradient(plain, log_ratio, advantage), 0 * advantage),
    ):
        assert torch.equal(of_dual[~far], of_plain[~far])
        torch.testing.assert_close(of_dual[far], bound[far], rtol=1e-12, atol=0)
    assert torch.equal(dual.clipped(log_ratio, advantage), plain.clipped(log_ratio, advantage) | far)


def test_a_dual_clip_without_end_is_none_to_the_bit_and_one_inside_the_clip_is_refused():
    log_ratio, advantage = grid()
    plain, dual = Clipped(low=0.2, high=0.28), Clipped(low=0.2, high=0.28, dual_clip=math.inf)
    assert torch.equal(dual(log_ratio, advantage), plain(log_ratio, advantage))
    assert torch.equal(gradient(dual, log_ratio, advantage), gradient(plain, log_ratio, advantage))
    with pytest.raises(ValueError, match=r"^algo\.surrogate\.dual_clip=1\.1: .*1\.28 \(1 \+ high\)"):
        Clipped(low=0.2, high=0.28, dual_clip=1.1)


def test_a_trust_region_without_end_is_the_unclipped_surrogate():
    log_ratio, advantage = grid()
    # low < 1 by construction; every ratio of the grid lies inside.
    wide = Clipped(low=1 - 1e-9, high=math.inf)
    assert torch.equal(wide(log_ratio, advantage), -log_ratio.exp() * advantage)
    assert torch.equal(gradient(wide, log_ratio, advantage), -log_ratio.exp() * advantage)


def test_the_clipped_surrogate_is_never_below_the_unclipped():
    log_ratio, advantage = grid()
    assert bool((Clipped(low=0.2, high=0.28)(log_ratio, advantage) >= -log_ratio.exp() * advantage).all())


def test_the_gradient_is_the_unclipped_one_or_exactly_zero_where_clipped_says_so():
    surrogate = Clipped(low=0.2, high=0.28)
    log_ratio, advantage = grid()
    cut = surrogate.clipped(log_ratio, advantage)
    assert torch.equal(
        gradient(surrogate, log_ratio, advantage), torch.where(cut, 0.0, -log_ratio.exp() * advantage)
    )


def test_clipped_names_ratios_that_left_the_region_where_their_advantage_pushes():
    log_ratio = torch.tensor([[1.29, 1.27, 0.79, 0.79, 0.81, 1.29, 9.0]]).log()
    advantage = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.0]])
    assert Clipped(low=0.2, high=0.28).clipped(log_ratio, advantage).tolist() == [
        [True, False, False, True, False, False, False]
    ]


def test_at_ratio_one_the_gradient_is_reinforces():
    advantage = torch.tensor([[-2.0, 0.0, 0.7]], dtype=torch.float64)
    for surrogate in (Clipped(low=0.2, high=0.2), Clipped(low=3e-4, high=4e-4), NegativeLogLikelihood()):
        assert torch.equal(gradient(surrogate, torch.zeros(1, 3, dtype=torch.float64), advantage), -advantage)


# A weight without gradient is by design not the derivative of its value.
@pytest.mark.parametrize(
    "surrogate", [surrogate for surrogate in SURROGATES if not isinstance(surrogate, ClippedWeight)]
)
def test_gradcheck(surrogate):
    log_ratio, advantage = grid()
    ordinary = log_ratio.exp() < 10
    leaf = log_ratio[ordinary][None].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: surrogate(x, advantage[ordinary][None]), leaf)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_value_and_gradient_are_finite_at_any_log_ratio(surrogate):
    log_ratio, advantage = torch.meshgrid(
        torch.tensor([-1e4, -200.0, 89.0, 200.0, 1e4]), torch.tensor([-1.0, 0.0, 1.0]), indexing="ij"
    )
    assert bool(surrogate(log_ratio, advantage).isfinite().all())
    assert bool(gradient(surrogate, log_ratio, advantage).isfinite().all())


def test_a_runaway_ratio_is_still_pulled_back():
    log_ratio = torch.tensor([[89.0, 200.0, 1e4]])
    pull = gradient(Clipped(low=0.2, high=0.2), log_ratio, torch.full((1, 3), -1.0))
    assert bool((pull > 1e4).all())


def test_bounds_that_are_no_trust_region_are_refused_by_name():
    for low, high in ((-0.1, 0.2), (1.0, 0.2), (0.2, 0.0), (0.2, -0.1)):
        with pytest.raises(ValueError, match=rf"algo\.surrogate\.low={low}, high={high}"):
            Clipped(low=low, high=high)


@generated
@given(st.floats(-1e4, 0), st.floats(-5, 5))
def test_negative_log_likelihood_equals_the_oracle(logprob, advantage):
    ours = NegativeLogLikelihood()(
        torch.tensor([[logprob]], dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    )
    assert float(ours) == oracles.negative_log_likelihood(logprob, advantage)


def test_negative_log_likelihood_clips_no_token():
    log_ratio, advantage = grid()
    assert not bool(NegativeLogLikelihood().clipped(log_ratio, advantage).any())


def test_a_clipped_weight_never_loses_a_gradient_and_stops_growing():
    log_ratio, advantage = grid()
    ours = gradient(ClippedWeight(low=0.2, high=0.28), log_ratio, advantage)
    torch.testing.assert_close(ours, -log_ratio.exp().clamp(0.8, 1.28) * advantage)


def test_a_soft_gate_has_the_unclipped_gradient_at_ratio_one_and_less_on_both_sides():
    log_ratio, advantage = grid()
    soft, plain = (
        gradient(surrogate, log_ratio, advantage).abs()
        for surrogate in (SoftGate(tau_positive=1.0, tau_negative=1.05), Unclipped())
    )
    at_one = (log_ratio == 0) & (advantage != 0)
    torch.testing.assert_close(soft[at_one], plain[at_one])
    assert bool((soft < plain)[~at_one & (advantage != 0)].all())


def test_a_soft_gate_by_hand():
    # 4 sigmoid(1) = 2.924, for A = 1 at r = 2; (4 / 1.05) sigmoid(-0.525) = 1.4159, for A = -1 at r = 0.5.
    ours = SoftGate(tau_positive=1.0, tau_negative=1.05)(
        torch.tensor([[2.0, 0.5]]).log(), torch.tensor([[1.0, -1.0]])
    )
    torch.testing.assert_close(ours, torch.tensor([[-2.9242, 1.4159]]), rtol=1e-4, atol=0)


def test_impossible_bounds_of_a_clipped_weight_are_refused():
    for low, high in ((-0.1, 0.2), (1.1, 0.2), (0.2, 0.0)):
        with pytest.raises(ValueError, match=rf"algo.surrogate.low={low}, high={high}"):
            ClippedWeight(low=low, high=high)


def test_impossible_temperatures_of_a_gate_are_refused():
    for positive, negative in ((0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match=rf"tau_positive={positive}, tau_negative={negative}"):
            SoftGate(tau_positive=positive, tau_negative=negative)
