"""Facts about f-divergences that the shared suite does not state."""

import math

import oracles
import pytest
import torch
from torch import Tensor

from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.chi2 import ChiSquare
from mirrorpo.divergence.f_divergence import (
    CorrectedFDivergence,
    ExactFDivergence,
    Renyi,
    SampledFDivergence,
)
from mirrorpo.divergence.generators import Alpha, JensenShannon, SquaredHellinger, TotalVariation
from mirrorpo.divergence.kl import K3
from mirrorpo.divergence.potentials import NegativeEntropy

ALPHAS = (-2.0, -1.0, -0.5, 0.3, 0.5, 0.7, 1.5, 2.0, 3.0)
# With the term that each is by its definition.
GENERATORS = {
    JensenShannon(): oracles.jensen_shannon,
    SquaredHellinger(): oracles.hellinger,
    TotalVariation(): oracles.total_variation,
    **{Alpha(alpha=a): lambda p, q, a=a: oracles.alpha_term(p, q, a) for a in ALPHAS},
}
generators = pytest.mark.parametrize("generator", GENERATORS, ids=str)
directions = pytest.mark.parametrize("direction", ["reverse", "forward"])
SYMMETRIC = (JensenShannon(), SquaredHellinger(), TotalVariation())


def tables(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first, second = (
        (2 * torch.randn(*shape, dtype=dtype, generator=draw)).log_softmax(dim=-1) for _ in range(2)
    )
    return first, second


def exact(generator, direction="reverse") -> ExactFDivergence:
    return ExactFDivergence(generator=generator, direction=direction)


@directions
@generators
def test_value_and_gradient_are_those_of_the_definition(generator, direction):
    log_p, log_q = tables(7, 11)
    log_p.requires_grad_()
    factor = torch.linspace(0.1, 1.0, 7, dtype=torch.float64)
    first, second = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    naive = GENERATORS[generator](first.exp(), second.exp()).sum(dim=-1)
    ours = exact(generator, direction)(log_p, log_q, log_p)
    torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-14)
    (expected,), (gradient,) = (torch.autograd.grad((factor * of).sum(), log_p) for of in (naive, ours))
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(exact(generator, direction).gradient(log_p.detach(), log_q, factor), gradient)


@directions
@generators
def test_gradcheck_of_what_reads_one_token(generator, direction):
    log_p, log_q = tables(5)
    for kind in (SampledFDivergence, CorrectedFDivergence):
        divergence = kind(generator=generator, direction=direction)
        of = lambda x, divergence=divergence: divergence(x, log_q, log_q)  # noqa: E731
        assert torch.autograd.gradcheck(of, log_p.clone().requires_grad_())


@directions
@generators
def test_every_term_is_finite_and_not_negative_with_tokens_of_no_probability(generator, direction):
    settings = {"generator": generator, "direction": direction}
    kinds = [kind(**settings) for kind in (ExactFDivergence, SampledFDivergence, CorrectedFDivergence)]
    for dtype in (torch.float32, torch.float64):
        for gap in (69.0, 700.0, 1e4, math.inf):
            sure, even = torch.tensor([0.0] + [-gap] * 4, dtype=dtype), torch.zeros(5, dtype=dtype)
            for first, second in ((sure, sure.flip(0)), (sure, even), (even, sure), (sure, sure)):
                log_p = first.log_softmax(-1).requires_grad_()
                for divergence in kinds:
                    value = divergence(log_p, second.log_softmax(-1), log_p.detach())
                    (gradient,) = torch.autograd.grad(value.sum(), log_p)
                    assert bool((value >= 0).all() and value.isfinite().all()), divergence
                    assert bool(gradient.isfinite().all()), divergence


@generators
def test_terms_and_slopes_lose_little_in_float32(generator):
    near = torch.linspace(-25.0, -0.02, 200)
    logs = torch.cartesian_prod(torch.tensor([0.0, -0.5, -3.0, -20.0]), torch.tensor([-1e-2, -2.0, -19.0]))
    for gap in (1e-3, -1e-2):
        log_p, log_q = torch.cat([near + gap, logs[:, 0]]), torch.cat([near, logs[:, 1]])
        for form in (generator.term, generator.slope):
            narrow, wide = form(log_p, log_q), form(log_p.double(), log_q.double())
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow.double(), wide, rtol=2e-3, atol=1e-12, msg=str(form))


@generators
def test_zero_with_zero_gradient_at_the_anchor(generator):
    # Total variation's subgradient too.
    for log_p in (tables(3, 5)[0], torch.tensor([[0.0, -1e4, -math.inf]])):
        leaf = log_p.clone().requires_grad_()
        value = exact(generator)(leaf, log_p, log_p)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert not value.any() and not gradient.any()


def test_the_symmetric_ones_have_one_direction_and_swapping_the_two_makes_alpha_one_minus_alpha():
    log_p, log_q = tables(4, 6)
    pairs = [(generator, generator) for generator in SYMMETRIC]
    pairs += [(Alpha(alpha=alpha), Alpha(alpha=1 - alpha)) for alpha in ALPHAS]
    for generator, swapped in pairs:
        forward = exact(generator, "forward")(log_p, log_q, log_p)
        torch.testing.assert_close(forward, exact(swapped)(log_p, log_q, log_p), rtol=1e-9, atol=1e-14)


def test_the_known_members_of_the_alpha_family():
    log_p, log_q = tables(4, 6)
    kl, hellinger = ExactBregman(potential=NegativeEntropy(), direction="reverse"), exact(SquaredHellinger())

    def alpha(value: float) -> Tensor:
        return exact(Alpha(alpha=value))(log_p, log_q, log_p)

    torch.testing.assert_close(alpha(2.0), ChiSquare()(log_p, log_q, log_p) / 2)
    torch.testing.assert_close(alpha(-1.0), ChiSquare()(log_q, log_p, log_q) / 2)
    torch.testing.assert_close(alpha(0.5), 4 * hellinger(log_p, log_q, log_p))
    torch.testing.assert_close(alpha(1 + 1e-6), kl(log_p, log_q, log_p), rtol=1e-4, atol=0)
    torch.testing.assert_close(alpha(1e-6), kl(log_q, log_p, log_q), rtol=1e-4, atol=0)


def test_bounds_are_reached_where_nothing_is_shared():
    log_p = torch.tensor([[0.0, -1e4]])
    for generator, bound in zip(SYMMETRIC, (math.log(2), 1.0, 1.0), strict=True):
        assert float(exact(generator)(log_p, log_p.flip(-1), log_p)) == pytest.approx(bound, rel=1e-6)


def test_the_sampled_form_is_that_of_k3_as_alpha_goes_to_one():
    log_p, log_q = tables(5)
    ours = SampledFDivergence(generator=Alpha(alpha=1 + 1e-7), direction="reverse")
    torch.testing.assert_close(ours(log_p, log_q, log_p), K3()(log_p, log_q, log_p), rtol=1e-5, atol=1e-8)


@directions
@pytest.mark.parametrize("alpha", [0.3, 0.5, 2.0, 3.0])
def test_renyis_value_and_gradient_are_those_of_the_definition(alpha, direction):
    logits, log_q = tables(7, 11)
    factor = torch.linspace(0.1, 1.0, 7, dtype=torch.float64)
    renyi = Renyi(alpha=alpha, direction=direction)
    logits.requires_grad_()
    log_p = logits.log_softmax(-1)
    first, second = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    naive = (alpha * first + (1 - alpha) * second).logsumexp(-1) / (alpha - 1)
    ours = renyi(log_p, log_q, log_p)
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-13)
    expected, gradient = (
        torch.autograd.grad((factor * of).sum(), logits, retain_graph=True)[0] for of in (naive, ours)
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
    leaf = log_p.detach().requires_grad_()
    (by_autograd,) = torch.autograd.grad((factor * renyi(leaf, log_q, leaf)).sum(), leaf)
    torch.testing.assert_close(renyi.gradient(leaf.detach(), log_q, factor), by_autograd)


def test_renyi_goes_on_as_a_straight_line_where_the_policies_hardly_overlap():
    gaps = torch.tensor([5.0, 9.0, 20.0, 60.0, 1e4])
    log_p = torch.stack([torch.zeros(5), -gaps], dim=-1).log_softmax(-1).requires_grad_()
    value = Renyi(alpha=0.5, direction="reverse")(log_p, log_p.detach().flip(-1), log_p)
    (gradient,) = torch.autograd.grad(value.sum(), log_p)
    assert bool(value.isfinite().all() and gradient.isfinite().all())
    assert bool((value.diff() >= 0).all())


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan, math.inf])
def test_an_alpha_that_is_a_kl_or_no_number_is_refused_by_name(alpha):
    with pytest.raises(ValueError, match=r"divergence\.generator\.alpha="):
        Alpha(alpha=alpha)
    with pytest.raises(ValueError, match=r"divergence\.alpha="):
        Renyi(alpha=alpha, direction="reverse")
