import math

import pytest
import torch

from mirrorpo.divergence.bregman import integrand
from mirrorpo.divergence.potentials import ItakuraSaito, NegativeEntropy, Square, Tsallis

POTENTIALS = [
    NegativeEntropy(),
    Square(factor=1.0),
    Square(factor=0.5),
    Square(factor=3.0),
    ItakuraSaito(),
    Tsallis(q=0.5),
    Tsallis(q=0.9),
]


def probabilities() -> torch.Tensor:
    return torch.cat(
        [
            torch.logspace(-300, -3, 12, dtype=torch.float64),
            torch.linspace(0.01, 1.0, 34, dtype=torch.float64),
        ]
    )


@pytest.mark.parametrize("potential", POTENTIALS)
def test_df_is_the_derivative_of_f(potential):
    p = probabilities().requires_grad_()
    (derivative,) = torch.autograd.grad(potential.f(p).sum(), p)
    torch.testing.assert_close(potential.df(p.detach()), derivative, rtol=1e-12, atol=0)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_df_grows_so_f_is_strictly_convex(potential):
    assert bool((potential.df(probabilities()).diff() > 0).all())


@pytest.mark.parametrize("potential", POTENTIALS)
def test_gradcheck(potential):
    p = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(potential.f, p)
    assert torch.autograd.gradcheck(potential.df, p)


def test_negative_entropy_by_hand():
    # 1/4 log 1/4 = -(log 4) / 4; the slope there is 1 - log 4.
    p = torch.tensor(0.25, dtype=torch.float64)
    torch.testing.assert_close(float(NegativeEntropy().f(p)), -math.log(4) / 4, rtol=1e-12, atol=0)
    torch.testing.assert_close(float(NegativeEntropy().df(p)), 1 - math.log(4), rtol=1e-12, atol=0)


def test_square_by_hand():
    # 2 * 0.3^2 = 0.18; the slope there is 2 * 2 * 0.3 = 1.2.
    p = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(float(Square(factor=2.0).f(p)), 0.18, rtol=1e-12, atol=0)
    torch.testing.assert_close(float(Square(factor=2.0).df(p)), 1.2, rtol=1e-12, atol=0)


def test_half_a_square_has_the_identity_as_mirror_map():
    assert torch.equal(Square(factor=0.5).df(probabilities()), probabilities())


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_factor_that_is_not_convex_is_refused_by_name(factor):
    with pytest.raises(ValueError, match=r"divergence\.potential\.factor"):
        Square(factor=factor)


@pytest.mark.parametrize("q", [0.0, 1.0, -2.0])
def test_an_order_that_is_no_convex_potential_is_refused(q):
    with pytest.raises(ValueError, match=rf"divergence.potential.q={q}"):
        Tsallis(q=q)


# ---------------------------------------------------------------- the forms in log-probabilities

CLOSED = [
    NegativeEntropy(), Square(factor=3.0), ItakuraSaito(),
    Tsallis(q=0.1), Tsallis(q=0.5), Tsallis(q=1.5), Tsallis(q=2.0), Tsallis(q=3.0),
]  # fmt: skip
LOGS = [0.0, -1e-4, -0.5, -3.0, -20.0, -60.0, -79.0]


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of `LOGS`, and pairs that are near each other."""
    logs = torch.tensor(LOGS, dtype=dtype)
    first, second = torch.cartesian_prod(logs, logs).unbind(dim=1)
    near = torch.linspace(-25.0, -0.01, 200, dtype=dtype)
    gaps = torch.tensor([1e-3, -1e-2], dtype=dtype)
    return torch.cat([first, *(near + gap for gap in gaps)]).clamp(max=0), torch.cat([second, near, near])


@pytest.mark.parametrize("potential", CLOSED)
def test_closed_forms_are_the_divergence_and_its_derivatives(potential):
    log_p, log_q = (logs.requires_grad_() for logs in pairs(torch.float64))
    value = integrand(potential, log_p, log_q)
    of_p, of_q = torch.autograd.grad(value.sum(), [log_p, log_q])
    log_p, log_q = log_p.detach(), log_q.detach()
    ours = (
        potential.closed(log_p, log_q),
        potential.closed_slope(log_p, log_q),
        potential.closed_slope_of_second(log_p, log_q),
    )
    for our_part, its_part in zip(ours, (value.detach(), of_p, of_q), strict=True):
        # Below what three cancelling terms leave of float64, and what a power's floor leaves out.
        torch.testing.assert_close(our_part, its_part, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("potential", CLOSED)
def test_closed_forms_lose_little_in_float32(potential):
    log_p, log_q = pairs(torch.float32)
    for name in ("closed", "closed_slope", "closed_slope_of_second"):
        form = getattr(potential, name)
        narrow, exact = form(log_p, log_q), form(log_p.double(), log_q.double())
        assert narrow.dtype == torch.float32
        assert bool(narrow.isfinite().all()), name
        # Near p = q the first digits stay: a gap of 1e-3 in logs is known to four.
        torch.testing.assert_close(narrow.double(), exact, rtol=2e-3, atol=1e-12, msg=name)


@pytest.mark.parametrize("potential", CLOSED)
def test_closed_forms_are_finite_below_the_floor_and_zero_at_p_equal_q(potential):
    logs = torch.tensor([0.0, -1.0, -90.0, -800.0, -1e4, -math.inf])
    log_p, log_q = torch.cartesian_prod(logs, logs).unbind(dim=1)
    for form in (potential.closed, potential.closed_slope, potential.closed_slope_of_second):
        assert bool(form(log_p, log_q).isfinite().all())
        at_anchor = form(logs, logs)
        assert not at_anchor[:2].any() and bool((at_anchor < 1e-30).all())
    below = log_p < potential.log_floor
    assert not potential.closed_slope(log_p, log_q)[below].any()
    below = log_q < potential.log_floor
    assert not potential.closed_slope_of_second(log_p, log_q)[below].any()


def test_closed_kl_by_hand():
    # 500 nats at the token that the anchor all but rules out; the anchor's own mass at the other.
    log_p, log_q = torch.tensor([0.0, -1e4]), torch.tensor([-500.0, 0.0])
    torch.testing.assert_close(NegativeEntropy().closed(log_p, log_q), torch.tensor([499.0, 1.0]))
