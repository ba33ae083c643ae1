from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from mirrorpo.divergence import tabulated
from mirrorpo.divergence.bregman import ExactBregman, integrand
from mirrorpo.divergence.neural_mirror import NeuralMirror, RandomParameters
from mirrorpo.divergence.potentials import NegativeEntropy, Potential, Square, Tsallis
from mirrorpo.divergence.tabulated import Tabulated


def neural(seed: int = 42, *, signed: bool = False) -> NeuralMirror:
    return NeuralMirror(parameters=RandomParameters(seed=seed, scale=0.01, signed=signed))


# Coarse and fine: a coarse table is another potential than the one it was made of, and a potential all the
# same.
TABLES = {
    "neural": Tabulated(potential=neural(), knots=8192),
    "neural, coarse": Tabulated(potential=neural(1), knots=9),
    "entropy": Tabulated(potential=NegativeEntropy(), knots=100),
    "square": Tabulated(potential=Square(factor=1.0), knots=8192),
    "square, coarse": Tabulated(potential=Square(factor=1.0), knots=800),
    "tsallis": Tabulated(potential=Tsallis(q=0.5), knots=2048),
}
tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def log_probabilities(table: Tabulated, count: int = 400) -> Tensor:
    return torch.linspace(max(table.log_floor, -60), 0, count, dtype=torch.float64)


def test_a_table_is_a_potential():
    assert isinstance(TABLES["neural"], Potential)
    assert TABLES["neural"].log_floor == neural().log_floor


@tables
def test_df_is_the_derivative_of_f(table):
    p = log_probabilities(table).exp().requires_grad_()
    (derivative,) = torch.autograd.grad(table.f(p).sum(), p)
    torch.testing.assert_close(derivative, table.df(p.detach()), rtol=1e-12, atol=0)


@tables
def test_gradcheck(table):
    # Numerically: f' from f, f'' from f', and both through each other.
    p = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: 100 * table.f(p), p)
    assert torch.autograd.gradcheck(lambda p: 100 * table.df(p), p)
    assert torch.autograd.gradgradcheck(lambda p: 100 * table.f(p), p)


@pytest.mark.parametrize("name", ["neural, coarse", "entropy"])
def test_f_is_the_integral_of_df_across_the_knots(name):
    table = TABLES[name]
    knots = torch.linspace(table.log_floor, 0, table.knots, dtype=torch.float64)[-7:]
    # int f'(p) dp = int f'(e^s) e^s ds, by Gauss and Legendre's rule on each interval, where both factors are
    # smooth.
    at, weight = (torch.from_numpy(part) for part in leggauss(30))
    s = (knots[1:, None] + knots[:-1, None] + at * knots.diff()[:, None]) / 2
    parts = (table.df(s.exp()) * s.exp() * weight).sum(dim=1) * knots.diff() / 2
    torch.testing.assert_close(
        table.f(knots.exp()[1:]) - table.f(knots.exp()[0]), parts.cumsum(dim=0), rtol=1e-12, atol=1e-13
    )


@tables
def test_f_is_continuous_at_every_knot(table):
    knots = torch.linspace(table.log_floor, 0, table.knots, dtype=torch.float64)[1:-1]
    knots = knots[knots > -60].exp()
    before, after = (table.f(knots * (1 + side * 1e-12)) for side in (-1, 1))
    assert bool(((after - before).abs() <= 1e-9 * (before.abs() + knots)).all())


@tables
def test_df_rises_and_the_divergence_of_a_table_is_not_negative(table):
    log_p = log_probabilities(table)
    assert bool((table.df(log_p.exp()).diff() > 0).all())
    p, q = log_p.exp()[:, None], log_p.exp()[None]
    value = table.f(p) - table.f(q) - table.df(q) * (p - q)
    size = table.f(p).abs() + table.f(q).abs() + (table.df(q) * (p - q)).abs()
    # What is negative is so by rounding.
    assert bool((value >= -1e-14 * size).all())
    assert bool((value + torch.eye(len(log_p)) > 0)[::40, ::40].all())


@tables
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_divergence_of_pairs_and_its_slope_are_those_of_f_and_df_and_zero_where_both_are_equal(
    table, dtype
):
    # Below the floor, at it, at one and rounded above one; equal, and next to each other.
    ends = torch.tensor([-1e4, table.log_floor, 0.0, 1e-7], dtype=torch.float64)
    log_p = torch.cat([log_probabilities(table, 40), ends]).to(dtype)
    pairs = torch.cartesian_prod(log_p, torch.cat([log_p, log_p[:40:7] + 1e-3])).unbind(dim=1)
    p, q = (part.double().clamp(min=table.log_floor).exp() for part in pairs)
    value, size = table.bregman(*pairs), table.f(p).abs() + table.f(q).abs() + (table.df(q) * (p - q)).abs()
    assert value.dtype == torch.float64
    assert bool(((value - integrand(table, *pairs)).abs() <= 1e-14 * size).all())
    assert not bool(value[pairs[0] == pairs[1]].any())
    slope, size = (table.df(p) - table.df(q)) * p, (table.df(p).abs() + table.df(q).abs()) * p
    assert bool(((table.bregman_slope(*pairs) - slope).abs() <= 1e-14 * size).all())


@pytest.mark.parametrize("seed", [42, 0, 1])
def test_the_divergence_of_a_fine_table_is_that_of_the_map_to_one_part_in_a_billion(seed):
    mirror = neural(seed)
    table = Tabulated(potential=mirror, knots=8192)
    for gap, rtol in [(0.01, 1e-9), (0.1, 1e-10), (1.0, 1e-11), (5.0, 1e-11)]:
        log_p = torch.linspace(gap - 23, -1e-3, 1500, dtype=torch.float64)
        for one, other in [(log_p, log_p - gap), (log_p - gap, log_p)]:
            torch.testing.assert_close(
                integrand(table, one, other), integrand(mirror, one, other), rtol=rtol, atol=0
            )


def test_with_twice_the_knots_the_map_is_sixteen_times_nearer():
    mirror = neural()
    p = torch.linspace(-20, -0.1, 999, dtype=torch.float64).exp()
    errors = [
        float((Tabulated(potential=mirror, knots=knots).df(p) - mirror.df(p)).abs().max())
        for knots in (129, 257, 513)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize("knots", [2, 50])
def test_a_map_that_is_linear_in_log_p_is_met_by_any_table(knots):
    table = Tabulated(potential=NegativeEntropy(), knots=knots)
    log_p, log_q = torch.log_softmax(
        torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1
    )
    torch.testing.assert_close(
        integrand(table, log_p, log_q), integrand(NegativeEntropy(), log_p, log_q), rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_exact_forms_gradient_is_right_in_both_directions(direction):
    divergence = ExactBregman(potential=TABLES["neural"], direction=direction)
    plain = ExactBregman(potential=neural(), direction=direction)
    draw = torch.Generator().manual_seed(0)
    logits, log_q = (
        torch.randn(3, 5, dtype=torch.float64, generator=draw),
        torch.randn(3, 5, dtype=torch.float64, generator=draw).log_softmax(-1),
    )
    logits.requires_grad_()
    ours, its = (
        torch.autograd.grad(100 * of(logits.log_softmax(-1), log_q, log_q).sum(), logits)[0]
        for of in (divergence, plain)
    )
    torch.testing.assert_close(ours, its, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: 100 * divergence(x.log_softmax(-1), log_q, log_q), logits)


def test_the_ends_of_the_range_and_what_lies_beyond_them_are_finite():
    table = TABLES["neural"]
    p = torch.tensor([0.0, 1e-300, 1e-10, 1.0, 1 + 1e-12], dtype=torch.float64)
    assert bool(table.f(p).isfinite().all())
    assert bool(table.df(p).isfinite().all())
    torch.testing.assert_close(table.df(p[2:4]), neural().df(p[2:4]), rtol=1e-9, atol=1e-12)


def test_shape_and_type_of_p_are_kept():
    table = TABLES["neural"]
    for shape in ((), (0,), (2, 3), (2, 1, 4)):
        assert table.f(torch.full(shape, 0.3)).shape == table.df(torch.full(shape, 0.3)).shape == shape
    single = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    assert table.f(single).dtype == table.df(single).dtype == torch.float32
    # Computed in float64 all the same, and in any layout.
    assert torch.equal(table.df(single.t()), table.df(single.double()).float().t())
    assert torch.equal(table.f(single.t()), table.f(single.double()).float().t())


def test_the_size_of_a_piece_changes_nothing(monkeypatch):
    p = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = TABLES["neural"].f(p), TABLES["neural"].df(p)
    monkeypatch.setattr(tabulated, "PIECE", 4)
    assert torch.equal(TABLES["neural"].f(p), whole[0])
    assert torch.equal(TABLES["neural"].df(p), whole[1])


def test_p_itself_is_left_as_it_was():
    p = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = p.clone()
    TABLES["neural"].f(p)
    TABLES["neural"].df(p)
    assert torch.equal(p, before)


def test_a_table_made_without_gradients_is_the_same():
    with torch.no_grad():
        silent = Tabulated(potential=neural(), knots=100)
    p = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    assert torch.equal(silent.df(p), Tabulated(potential=neural(), knots=100).df(p))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("knots", [1, 0, -5])
def test_fewer_than_two_knots_are_refused_by_name(knots):
    with pytest.raises(ValueError, match=rf"divergence\.potential\.knots={knots}: needs at least 2"):
        Tabulated(potential=NegativeEntropy(), knots=knots)


def test_too_few_knots_to_follow_a_map_that_bends_are_refused():
    # From 1e-300 to 1 the square's map is flat and then steep; one cubic between dips below its start.
    with pytest.raises(
        ValueError, match=r"divergence\.potential\.knots=3: the interpolated mirror map falls"
    ):
        Tabulated(potential=Square(factor=1.0), knots=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Concave:
    log_floor: ClassVar[float] = -20.0
    fingerprint: ClassVar[str | None] = None
    convex: ClassVar[bool] = False

    def f(self, p: Tensor) -> Tensor:
        return -p * p.log()

    def df(self, p: Tensor) -> Tensor:
        return -p.log() - 1


@pytest.mark.parametrize("potential", [Concave(), neural(signed=True)])
def test_a_potential_that_is_not_convex_is_refused(potential):
    with pytest.raises(ValueError, match=r"falls somewhere.*that is convex"):
        Tabulated(potential=potential, knots=500)
