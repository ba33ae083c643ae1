import math

import pytest
import torch

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
