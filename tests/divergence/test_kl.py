import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.divergence.bregman import integrand
from mirrorpo.divergence.kl import K1, K2, K3, LARGEST
from mirrorpo.divergence.potentials import NegativeEntropy

ESTIMATORS = [
    (K1(), oracles.k1),
    (K2(), oracles.k2),
    (K3(), oracles.k3),
]
KL = [estimator for estimator, _ in ESTIMATORS]
k3 = KL[2]

generated = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def tokens(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([list(values)], dtype=dtype)


def gradient(divergence, log_p, log_q):
    leaf = log_p.clone().requires_grad_()
    return torch.autograd.grad(divergence(leaf, log_q, leaf.detach()).sum(), leaf)[0]


@pytest.mark.parametrize(("estimator", "oracle"), ESTIMATORS)
@generated
@given(st.floats(-30, 0), st.floats(-29, 0))
def test_equals_the_oracle(estimator, oracle, log_p, log_q):
    ours = float(estimator(tokens(log_p), tokens(log_q), tokens(log_p)))
    torch.testing.assert_close(ours, oracle(log_p, log_q), rtol=1e-9, atol=1e-12)


def test_by_hand():
    # p = 1/2, q = 1/4: log(p/q) = log 2; its half square; q/p - 1 + log 2 = log 2 - 1/2.
    log_p, log_q = tokens(math.log(1 / 2)), tokens(math.log(1 / 4))
    expected = [math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5]
    for estimator, value in zip(KL, expected, strict=True):
        torch.testing.assert_close(float(estimator(log_p, log_q, log_p)), value, rtol=1e-6, atol=0)


def test_the_gradients_at_a_token_are_those_their_docstrings_state():
    log_p, log_q = tokens(-0.5, -1.0, -2.0), tokens(-2.0, -1.0, -0.1)
    x = log_q - log_p
    for estimator, expected in zip(KL, [torch.ones_like(x), -x, 1 - x.exp()], strict=True):
        torch.testing.assert_close(gradient(estimator, log_p, log_q), expected, rtol=1e-12, atol=1e-15)


def test_k3_is_the_negative_entropy_integrand_over_p():
    log_p, log_q = tokens(-0.5, -1.0, -2.0), tokens(-2.0, -1.5, -0.1)
    torch.testing.assert_close(
        k3(log_p, log_q, log_p),
        integrand(NegativeEntropy(), log_p, log_q) / log_p.exp(),
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_bias_of_k2_is_of_third_order_in_the_log_ratio():
    logits, direction = tokens(0.3, -1.0, 0.8, 0.0, -0.4), tokens(1.0, 0.2, -0.5, -0.1, 0.7)
    log_p = logits.log_softmax(-1)

    def bias(step: float) -> float:
        log_q = (logits + step * direction).log_softmax(-1)
        expected = float((log_p.exp() * KL[1](log_p, log_q, log_p)).sum())
        return expected - oracles.reverse_kl(log_p[0].tolist(), log_q[0].tolist())

    # Half the step, an eighth of the bias.
    torch.testing.assert_close(bias(0.02) / bias(0.01), 8.0, rtol=2e-2, atol=0)


@pytest.mark.parametrize("estimator", KL[1:])
@generated
@given(st.floats(-1e4, 0), st.floats(-1e4, 0))
def test_k2_and_k3_are_not_negative(estimator, log_p, log_q):
    for dtype in (torch.float32, torch.float64):
        assert (
            float(
                estimator(tokens(log_p, dtype=dtype), tokens(log_q, dtype=dtype), tokens(log_p, dtype=dtype))
            )
            >= 0
        )


@pytest.mark.parametrize("estimator", KL)
@pytest.mark.parametrize(
    ("log_p", "log_q"), [(-1e4, 0.0), (0.0, -1e4), (-1e4, -1e4), (-89.0, -0.5), (-30.0, 0.0)]
)
def test_value_and_gradient_are_finite_in_single_precision(estimator, log_p, log_q):
    p, q = tokens(log_p, dtype=torch.float32), tokens(log_q, dtype=torch.float32)
    assert bool(estimator(p, q, p).isfinite())
    assert bool(gradient(estimator, p, q).isfinite())


def test_k3_beyond_its_cut_goes_on_as_the_tangent():
    # At x = L the value is e^L - 1 - L with slope e^L - 1, so at L + 5 it is that plus 5 (e^L - 1).
    top, slope = math.expm1(LARGEST) - LARGEST, math.expm1(LARGEST)
    log_p = tokens(-LARGEST - 5)
    torch.testing.assert_close(float(k3(log_p, tokens(0.0), log_p)), top + 5 * slope, rtol=1e-12, atol=0)
    torch.testing.assert_close(float(gradient(k3, log_p, tokens(0.0))), -slope, rtol=1e-12, atol=0)


def test_k3_meets_its_tangent_in_value_and_slope():
    before, after = tokens(-LARGEST + 1e-9), tokens(-LARGEST - 1e-9)
    torch.testing.assert_close(
        k3(before, tokens(0.0), before), k3(after, tokens(0.0), after), rtol=1e-8, atol=0
    )
    torch.testing.assert_close(
        gradient(k3, before, tokens(0.0)), gradient(k3, after, tokens(0.0)), rtol=1e-8, atol=0
    )


def test_k3_keeps_small_log_ratios_in_single_precision():
    # x^2 / 2 + x^3 / 6 at x = 1e-4; exp(x) - 1 - x in float32 would be wrong by a factor of three.
    log_q = tokens(1e-4, dtype=torch.float32)
    x = float(log_q)
    torch.testing.assert_close(
        float(k3(tokens(0.0, dtype=torch.float32), log_q, log_q)), x**2 / 2 + x**3 / 6, rtol=2e-2, atol=0
    )


@pytest.mark.parametrize("estimator", KL)
def test_gradcheck(estimator):
    log_p, log_q = tokens(-0.5, -1.0, -2.0).requires_grad_(), tokens(-2.0, -1.1, -0.1)
    assert torch.autograd.gradcheck(lambda x: estimator(x, log_q, log_p.detach()), log_p)


@pytest.mark.parametrize("estimator", KL)
def test_the_anchor_gets_no_gradient(estimator):
    log_p, log_q = tokens(-1.0).requires_grad_(), tokens(-2.0).requires_grad_()
    estimator(log_p, log_q, log_p.detach()).sum().backward()
    assert log_p.grad is not None
    assert log_q.grad is None
