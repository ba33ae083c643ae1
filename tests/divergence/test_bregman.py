import math
from dataclasses import dataclass
from typing import ClassVar

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.divergence.bregman import CorrectedBregman, ExactBregman, SampledBregman, integrand
from mirrorpo.divergence.kl import k3
from mirrorpo.divergence.potentials import ItakuraSaito, NegativeEntropy, Square, Tsallis

POTENTIALS = [
    NegativeEntropy(),
    Square(factor=1.0),
    Square(factor=0.5),
    ItakuraSaito(),
    Tsallis(q=0.5),
    Tsallis(q=1.5),
]

generated = settings(max_examples=60, deadline=None, derandomize=True, database=None)
logits = st.lists(st.floats(-30, 30), min_size=5, max_size=5)


def logprobs(drawn: list[float]) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(drawn, dtype=torch.float64), dim=-1)


def exact(potential) -> ExactBregman:
    return ExactBregman(potential=potential, direction="reverse")


def sampled(potential) -> SampledBregman:
    return SampledBregman(potential=potential)


@generated
@given(logits, logits)
def test_exact_with_negative_entropy_is_the_reverse_kl(drawn_p, drawn_q):
    log_p, log_q = logprobs(drawn_p), logprobs(drawn_q)
    ours = exact(NegativeEntropy())(log_p, log_q, log_p)
    torch.testing.assert_close(
        float(ours), oracles.reverse_kl(log_p.tolist(), log_q.tolist()), rtol=1e-9, atol=1e-13
    )


@generated
@given(logits, logits, st.sampled_from([0.5, 1.0, 3.0]))
def test_exact_with_square_is_the_squared_distance_of_probabilities(drawn_p, drawn_q, factor):
    log_p, log_q = logprobs(drawn_p), logprobs(drawn_q)
    ours = exact(Square(factor=factor))(log_p, log_q, log_p)
    torch.testing.assert_close(
        float(ours), oracles.probl2_exact(log_p.tolist(), log_q.tolist(), factor), rtol=1e-9, atol=1e-15
    )


@generated
@given(st.floats(-1e4, 0), st.floats(-1e4, 0), st.sampled_from([0.5, 1.0, 3.0]))
def test_sampled_with_square_is_the_squared_difference_at_the_token(log_p, log_q, factor):
    p, q = (torch.tensor([[value]], dtype=torch.float64) for value in (log_p, log_q))
    ours = sampled(Square(factor=factor))(p, q, p)
    torch.testing.assert_close(
        float(ours), oracles.probl2_sampled(log_p, log_q, factor), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("potential", POTENTIALS)
def test_exact_is_the_sum_of_the_integrand_over_the_vocabulary(potential):
    draw = torch.Generator().manual_seed(0)
    log_p, log_q = (
        torch.randn(4, 3, 5, dtype=torch.float64, generator=draw).log_softmax(-1) for _ in range(2)
    )
    ours = exact(potential)(log_p, log_q, log_p)
    assert ours.shape == (4, 3)
    torch.testing.assert_close(ours, integrand(potential, log_p, log_q).sum(dim=-1), rtol=1e-12, atol=0)


def test_probl2_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): each square is 1/16.
    log_p, log_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    torch.testing.assert_close(
        exact(Square(factor=1.0))(log_p, log_q, log_p), torch.tensor([1 / 8]), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        sampled(Square(factor=1.0))(log_p, log_q, log_p), torch.tensor([[1 / 16, 1 / 16]]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("potential", POTENTIALS)
@generated
@given(st.floats(-1e4, 0), st.floats(-1e4, 0))
def test_the_integrand_is_finite_and_not_negative(potential, log_p, log_q):
    for dtype in (torch.float32, torch.float64):
        value = integrand(potential, torch.tensor(log_p, dtype=dtype), torch.tensor(log_q, dtype=dtype))
        assert value.dtype == torch.float64
        assert bool(value.to(dtype).isfinite())
        assert float(value) >= 0


@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_integrand_is_not_negative_where_p_and_q_differ_by_rounding(potential):
    log_q = torch.linspace(-20, -0.01, 500, dtype=torch.float64)
    for gap in (1e-8, 1e-9, 1e-10, -1e-9):
        assert bool((integrand(potential, log_q + gap, log_q) >= 0).all())


@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_integrand_is_zero_with_zero_gradient_at_p_equal_q(potential):
    log_p = torch.tensor([0.0, -0.5, -70.0, -1e4], requires_grad=True)
    value = integrand(potential, log_p, log_p.detach().clone())
    assert torch.equal(value.detach(), torch.zeros(4))
    assert torch.equal(torch.autograd.grad(value.sum(), log_p)[0], torch.zeros(4))


@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_gradient_in_p_is_the_difference_of_mirror_maps(potential):
    p = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    q = torch.linspace(0.9, 0.1, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(integrand(potential, p.log(), q.log()).sum(), p)
    torch.testing.assert_close(gradient, potential.df(p.detach()) - potential.df(q), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_gradient_of_the_exact_form_is_that_of_the_sum_of_the_integrand(potential, direction):
    draw = torch.Generator().manual_seed(0)
    log_p, log_q = (5 * torch.randn(6, 4, dtype=torch.float64, generator=draw) for _ in range(2))
    log_p, log_q = log_p.log_softmax(-1), log_q.log_softmax(-1)
    # Below the floor there is no gradient, on either side.
    log_p[0, 0], log_q[1, 1], log_p[2, 2], log_q[2, 2] = -800.0, -800.0, -800.0, -800.0
    log_p.requires_grad_()
    ours = ExactBregman(potential=potential, direction=direction)(log_p, log_q, log_p)
    expected = (
        integrand(potential, log_p, log_q) if direction == "reverse" else integrand(potential, log_q, log_p)
    ).sum(dim=-1)
    (gradient,), (its,) = (torch.autograd.grad(values.sum(), log_p) for values in (ours, expected))
    torch.testing.assert_close(gradient, its, rtol=1e-9, atol=1e-14)
    assert gradient[0, 0] == gradient[2, 2] == 0


@dataclass(frozen=True)
class Cosine:
    """f(p) = cos(3 p), which is not convex."""

    convex: ClassVar[bool] = False
    log_floor: ClassVar[float] = -690.0
    fingerprint: ClassVar[str | None] = None

    def f(self, p):
        return (3 * p).cos()

    def df(self, p):
        return -3 * (3 * p).sin()


def test_a_potential_that_is_not_convex_keeps_its_sign():
    p, q = torch.tensor([0.1, 0.9], dtype=torch.float64), torch.tensor([0.5, 0.4], dtype=torch.float64)
    expected = (3 * p).cos() - (3 * q).cos() + 3 * (3 * q).sin() * (p - q)
    torch.testing.assert_close(integrand(Cosine(), p.log(), q.log()), expected, rtol=1e-12, atol=0)
    assert bool((expected < 0).any())


@pytest.mark.parametrize("potential", [*POTENTIALS, Cosine()])
def test_gradcheck(potential):
    log_p = torch.log_softmax(
        torch.tensor([0.3, -1.0, 2.0, 0.0, -0.4], dtype=torch.float64), 0
    ).requires_grad_()
    log_q = torch.log_softmax(torch.tensor([1.0, 1.0, -2.0, 0.5, 0.0], dtype=torch.float64), 0)
    forward = ExactBregman(potential=potential, direction="forward")
    for divergence in (exact(potential), forward, sampled(potential)):
        assert torch.autograd.gradcheck(lambda x, of=divergence: of(x, log_q, x), log_p)


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("build", [exact, sampled])
def test_the_anchor_gets_no_gradient(potential, build):
    log_p, log_q = (torch.log_softmax(torch.tensor([[a, 0.0, -a]]), -1).requires_grad_() for a in (1.0, -0.5))
    build(potential)(log_p, log_q, log_p.detach()).sum().backward()
    assert log_p.grad is not None
    assert log_q.grad is None


def test_single_precision_inputs_near_each_other_do_not_cancel():
    # f'' (p - q)^2 / 2 with f'' = 1 / q and p = q (1 + h): the term is q h^2 / 2 up to h^3.
    log_q = torch.tensor([-0.5, -3.0, -9.0])
    log_p = log_q + torch.tensor([1e-3, 2e-3, 4e-3])
    h = torch.expm1(log_p.double() - log_q.double())
    expected = log_q.double().exp() * h.square() / 2 * (1 - h / 3)
    torch.testing.assert_close(
        integrand(NegativeEntropy(), log_p, log_q).double(), expected, rtol=1e-4, atol=0
    )


def test_an_anchor_that_gives_almost_nothing_costs_its_log_gap_and_no_more_than_the_floor():
    log_p, log_q = torch.tensor([[0.0, -1e4]]), torch.tensor([[-500.0, 0.0]])
    # p log(p/q) - p + q over both tokens: 500 - 1 + 0 and 0 - 0 + 1.
    torch.testing.assert_close(
        exact(NegativeEntropy())(log_p, log_q, log_p), torch.tensor([500.0]), rtol=1e-6, atol=0
    )
    assert math.isclose(float(exact(NegativeEntropy())(log_p, log_q * 20, log_p)), 690.0, rel_tol=1e-6)


def test_the_corrected_term_is_unbiased_for_tokens_of_another_policy_in_value_and_gradient():
    draw = torch.Generator().manual_seed(0)
    logits, log_q, log_old = (torch.randn(5, dtype=torch.float64, generator=draw) for _ in range(3))
    log_q, log_old = log_q.log_softmax(-1), log_old.log_softmax(-1)
    logits.requires_grad_()
    for potential in (NegativeEntropy(), Square(factor=1.0)):
        log_p = logits.log_softmax(-1)
        terms = CorrectedBregman(potential=potential)(log_p, log_q, log_old)
        expected = (log_old.exp() * terms).sum()
        exact = ExactBregman(potential=potential, direction="reverse")(log_p, log_q, log_old)
        torch.testing.assert_close(expected, exact, rtol=1e-9, atol=1e-12)
        ours, its = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (expected, exact))
        torch.testing.assert_close(ours, its, rtol=1e-9, atol=1e-12)


def test_the_corrected_kl_is_k3_times_the_ratio():
    log_p, log_q, log_old = torch.tensor([[-1.0]]), torch.tensor([[-1.7]]), torch.tensor([[-1.3]])
    ours = CorrectedBregman(potential=NegativeEntropy())(log_p, log_q, log_old)
    torch.testing.assert_close(ours, k3(log_p, log_q) * (log_p - log_old).exp(), rtol=1e-5, atol=0)


def test_forward_puts_the_anchor_first():
    log_p, log_q = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.5, 0.5]]).log()
    forward = ExactBregman(potential=NegativeEntropy(), direction="forward")
    torch.testing.assert_close(forward(log_p, log_q, log_p), exact(NegativeEntropy())(log_q, log_p, log_p))


def test_tsallis_of_order_two_is_probl2_and_near_one_it_is_kl():
    log_p, log_q = (
        torch.tensor([[0.2, 0.8]], dtype=torch.float64).log(),
        torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(),
    )
    for potential, limit, rtol in [
        (Tsallis(q=2.0), Square(factor=1.0), 1e-9),
        (Tsallis(q=1 + 1e-6), NegativeEntropy(), 1e-5),
    ]:
        torch.testing.assert_close(
            exact(potential)(log_p, log_q, log_p), exact(limit)(log_p, log_q, log_p), rtol=rtol, atol=1e-12
        )
