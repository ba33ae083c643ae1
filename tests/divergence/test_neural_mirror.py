import json
import math
from pathlib import Path

import oracles
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from mirrorpo.divergence.bregman import SampledBregman, integrand
from mirrorpo.divergence.neural_mirror import NeuralMirror, ParametersFile, RandomParameters
from mirrorpo.divergence.potentials import NegativeEntropy, Square

GRID = torch.cat(
    [torch.logspace(-10, -2, 30, dtype=torch.float64), torch.linspace(0.02, 1, 50, dtype=torch.float64)]
)
INSIDE = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
KINDS = ("cube", "square", "square_root", "cube_root", "logarithm", "exponential")
SEEDS = (42, 0, 1)


def drawn(seed: int = 42, *, signed: bool = False) -> NeuralMirror:
    return NeuralMirror(parameters=RandomParameters(seed=seed, scale=0.01, signed=signed))


def stored(folder: Path, numbers: object) -> NeuralMirror:
    path = folder / "map.json"
    path.write_text(json.dumps(numbers))
    return NeuralMirror(parameters=ParametersFile(path=str(path), signed=True))


def numbers(*, a: float = 0.0, c: float = 0.0, **units: tuple[float, float, float]) -> list[float]:
    """All zero but a, c and the first unit of each kind named, as (v, w, b)."""
    out = [0.0] * 378 + [a, c]
    for kind, triple in units.items():
        for part, value in enumerate(triple):
            out[126 * part + 21 * KINDS.index(kind)] = value
    return out


def bregman(potential: NeuralMirror, p: Tensor, q: Tensor) -> Tensor:
    return potential.f(p) - potential.f(q) - potential.df(q) * (p - q)


def table(potential: NeuralMirror, grid: Tensor) -> Tensor:
    """The divergence of every p of a grid from every q."""
    return bregman(potential, grid[:, None], grid[None])


# ---------------------------------------------------------------- the map is the paper's


def unit_by_unit(values: list[float], y: float) -> float:
    """The paper's mirror map as it is written down, one unit after the other."""
    kinds = [
        lambda u: u**3,
        lambda u: u**2,
        lambda u: max(u, 0) ** (1 / 2),
        lambda u: max(u, 0) ** (1 / 3),
        lambda u: math.log(max(u, 0) + 1e-3),
        math.exp,
    ]
    v, w, b = values[:126], values[126:252], values[252:378]
    return (
        sum(v[j] * kinds[j // 21](w[j] * y + b[j]) for j in range(126))
        + values[378] * y
        + values[379] * math.log(y)
    )


@pytest.mark.parametrize("signed", [False, True])
def test_the_mirror_map_is_the_papers_unit_by_unit_up_to_a_constant(signed):
    mirror = drawn(signed=signed)
    values = mirror.parameters.values.tolist()
    ours = mirror.df(GRID) - mirror.df(GRID[-1])
    naive = torch.tensor(
        [unit_by_unit(values, y) - unit_by_unit(values, 1.0) for y in GRID.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("signed", [False, True])
def test_the_divergence_is_the_one_of_the_papers_primitives(signed):
    mirror = drawn(signed=signed)
    for p, q in [(0.9, 0.5), (0.05, 0.3), (0.3, 0.05), (0.01, 0.001), (1e-6, 0.7)]:
        ours = bregman(mirror, *(torch.tensor(value, dtype=torch.float64) for value in (p, q)))
        torch.testing.assert_close(
            ours, oracles.neural_mirror(p, q, mirror.parameters.values), rtol=1e-8, atol=1e-14
        )


# docs/papers.md B.2.5: (p, q, least, most) over three seeds, with half a digit of rounding.
MEASURED = [
    (0.9, 0.5, 0.0055, 0.0075),
    (0.6, 0.5, 0.00035, 0.00055),
    (0.05, 0.3, 0.0035, 0.0055),
    (0.3, 0.05, 0.0035, 0.0065),
    (0.01, 0.001, 2.5e-5, 1.5e-4),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("p", "q", "least", "most"), MEASURED)
def test_a_random_maps_values_are_those_that_were_measured_for_the_public_code(seed, p, q, least, most):
    value = float(integrand(drawn(seed), torch.tensor(p).double().log(), torch.tensor(q).double().log()))
    assert least <= value <= most


@pytest.mark.parametrize("seed", SEEDS)
def test_at_moderate_gaps_more_than_half_of_a_random_maps_value_comes_from_its_log_units(tmp_path, seed):
    mirror = drawn(seed)
    values = mirror.parameters.values.tolist()
    rest = stored(tmp_path, [0.0 if 84 <= index < 105 else value for index, value in enumerate(values)])
    p, q = (
        torch.tensor([0.9, 0.3, 0.05], dtype=torch.float64),
        torch.tensor([0.5, 0.05, 0.3], dtype=torch.float64),
    )
    share = 1 - bregman(rest, p, q) / bregman(mirror, p, q)
    assert bool(((share > 0.5) & (share < 0.8)).all())


# ---------------------------------------------------------------- f is the primitive of f'


@pytest.mark.parametrize("signed", [False, True])
def test_df_is_the_derivative_of_f(signed):
    p = GRID.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(drawn(signed=signed).f(p).sum(), p)
    torch.testing.assert_close(derivative, drawn(signed=signed).df(GRID), rtol=1e-12, atol=0)


@pytest.mark.parametrize("signed", [False, True])
def test_gradcheck(signed):
    p = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    mirror = drawn(signed=signed)
    # Numerically, so f's closed gradient is checked against f itself; and once more for f'.
    assert torch.autograd.gradcheck(lambda p: 100 * mirror.f(p), p)
    assert torch.autograd.gradcheck(lambda p: 100 * mirror.df(p), p)
    assert torch.autograd.gradgradcheck(lambda p: 100 * mirror.f(p), p)


ARGUMENTS = [
    (0.7, 0.3),
    (5.0, 0.0),
    (1e-3, 0.4),
    (0.0, 0.4),
    (0.0, -0.4),
    (-0.8, 0.3),
    (0.9, -0.4),
    (-0.5, -0.1),
    (0.5, -0.6),
    (-0.3, 0.9),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("w", "b"), ARGUMENTS)
def test_the_primitive_of_a_unit_is_the_integral_of_its_rise_whatever_its_signs(tmp_path, kind, w, b):
    mirror = stored(tmp_path, numbers(**{kind: (0.7, w, b)}))
    values = mirror.parameters.values.tolist()

    def rise(y: float) -> float:
        return unit_by_unit(values, y) - unit_by_unit(values, 1e-300)

    kink = [-b / w] if w and 0.1 < -b / w < 0.95 else []
    for y in (0.1, 0.95):
        expected, _ = quad(rise, 0, y, points=kink or None, epsabs=1e-14, epsrel=1e-12)
        ours = mirror.f(torch.tensor(y, dtype=torch.float64))
        torch.testing.assert_close(float(ours), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            float(mirror.df(torch.tensor(y, dtype=torch.float64))), rise(y), rtol=1e-9, atol=1e-14
        )


# s'(0.4) of each kind
SLOPES = [3 * 0.4**2, 2 * 0.4, 0.4 ** (-1 / 2) / 2, 0.4 ** (-2 / 3) / 3, 1 / 0.401, math.exp(0.4)]


@pytest.mark.parametrize(("kind", "curvature"), list(zip(KINDS, SLOPES, strict=True)))
def test_a_unit_of_tiny_slope_keeps_its_digits(tmp_path, kind, curvature):
    # D = w s'(b) (p - q)^2 / 2 up to w^2, 1e-11 here; u^4 / (4 w) alone is 6e7.
    mirror = stored(tmp_path, numbers(**{kind: (1.0, 1e-10, 0.4)}))
    ours = bregman(mirror, torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64))
    tolerance = (
        1e-4 if kind in ("logarithm", "exponential") else 1e-8
    )  # their mean rise is known to 1e-16, not to 1e-16 of itself
    torch.testing.assert_close(float(ours), 1e-10 * curvature * 0.64 / 2, rtol=tolerance, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_does_not_depend_on_p_gives_nothing(tmp_path, kind):
    mirror = stored(tmp_path, numbers(**{kind: (3.0, 0.0, 0.4)}))
    assert not bool(table(mirror, GRID).any())


def test_the_linear_term_alone_is_half_a_square(tmp_path):
    mirror, half = stored(tmp_path, numbers(a=0.6)), Square(factor=0.3)
    torch.testing.assert_close(mirror.f(GRID), half.f(GRID), rtol=1e-14, atol=0)
    torch.testing.assert_close(mirror.df(GRID), half.df(GRID), rtol=1e-14, atol=0)


def test_the_log_term_alone_is_negative_entropy_and_the_shipped_file_is_that():
    learned = NeuralMirror(parameters=ParametersFile(path="mirrorpo:negative_entropy", signed=False))
    log_p, log_q = torch.log_softmax(
        torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1
    )
    torch.testing.assert_close(
        integrand(learned, log_p, log_q), integrand(NegativeEntropy(), log_p, log_q), rtol=1e-9, atol=1e-15
    )


def test_the_log_term_is_weighed_by_c(tmp_path):
    mirror = stored(tmp_path, numbers(c=0.25))
    torch.testing.assert_close(table(mirror, GRID), table(NegativeEntropy(), GRID) / 4, rtol=1e-9, atol=1e-15)


# ---------------------------------------------------------------- a divergence, or not


@pytest.mark.parametrize("seed", SEEDS)
def test_without_signs_the_divergence_is_not_negative_and_zero_at_the_anchor_only(seed):
    mirror = drawn(seed)
    assert mirror.convex
    assert bool((mirror.df(GRID).diff() > 0).all())
    values = table(mirror, GRID)
    assert torch.equal(values.diag(), torch.zeros(len(GRID), dtype=torch.float64))
    # A hundredth of a float64's last digit in f is the rounding of values near 1e-10.
    assert float(values.min()) > -1e-17
    assert bool((table(mirror, INSIDE) + torch.eye(50) > 0).all())


def as_published(values: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The public code's own sum, in which a log unit's primitive is constant below zero."""
    v, w, b = values[:378].view(3, 6, 21)
    s, primitive = zip(*oracles.MIRROR_UNITS, strict=True)
    heights = [
        *primitive[:4],
        lambda u: (u.clamp(min=0) + 1e-3) * ((u.clamp(min=0) + 1e-3).log() - 1),
        primitive[5],
    ]
    p, q = p[..., None], q[..., None]
    kinds = range(6)
    units = [
        v[k]
        * (
            (heights[k](w[k] * p + b[k]) - heights[k](w[k] * q + b[k])) / w[k]
            - s[k](w[k] * q + b[k]) * (p - q)
        )
        for k in kinds
    ]
    smooth = values[378] / 2 * (p - q) ** 2 + values[379] * (p * (p / q).log() - p + q)
    return sum(unit.sum(dim=-1) for unit in units) + smooth[..., 0]


def test_the_public_codes_search_starts_at_what_is_no_divergence():
    # docs/papers.md B.2.4: all of 20 starts have negative values, with the published primitive of a log unit;
    # with the true one most have.
    published, true = [], []
    for seed in range(20):
        mirror = drawn(seed, signed=True)
        assert not mirror.convex
        published.append(float(as_published(mirror.parameters.values, INSIDE[:, None], INSIDE[None]).min()))
        true.append(float(table(mirror, INSIDE).min()))
    assert max(published) < -1e-3
    assert sum(least < -1e-6 for least in true) >= 15
    assert min(true) < -0.01


def test_without_signs_the_published_sum_and_ours_are_one():
    mirror = drawn()
    torch.testing.assert_close(
        table(mirror, INSIDE),
        as_published(mirror.parameters.values, INSIDE[:, None], INSIDE[None]),
        rtol=1e-7,
        atol=1e-13,
    )


def test_the_signed_map_of_the_config_is_negative_somewhere():
    assert float(table(drawn(signed=True), INSIDE).min()) < -1e-4


# ---------------------------------------------------------------- numbers that are not numbers


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_finite_for_probabilities_of_zero_and_one(signed, dtype):
    log_p = torch.tensor([-math.inf, -1e4, -23.1, -1e-9, 0.0], dtype=dtype, requires_grad=True)
    divergence = SampledBregman(potential=drawn(signed=signed))
    for log_q in (log_p.detach(), log_p.detach().flip(0)):
        value = divergence(log_p, log_q, log_q)
        assert value.dtype == dtype
        assert bool(value.isfinite().all())
        assert bool(torch.autograd.grad(value.sum(), log_p)[0].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("w", "b"), [(1.0, -0.5), (-1.0, 0.5), (0.0, 0.0), (1.0, 0.0)])
def test_value_and_gradients_are_finite_where_a_units_argument_is_exactly_zero(tmp_path, dtype, kind, w, b):
    mirror = stored(tmp_path, numbers(**{kind: (1.0, w, b)}))
    p = torch.tensor([0.5, 1e-10, 1.0], dtype=dtype, requires_grad=True)
    for value in (mirror.f(p), mirror.df(p)):
        assert value.dtype == dtype
        assert bool(value.isfinite().all())
        assert bool(torch.autograd.grad(value.sum(), p)[0].isfinite().all())


def test_a_probability_below_the_floor_counts_as_the_floor():
    mirror, log_q = drawn(), torch.tensor(-1.0, dtype=torch.float64)
    below, at = (
        integrand(mirror, torch.tensor(value, dtype=torch.float64), log_q)
        for value in (-400.0, math.log(1e-10))
    )
    assert torch.equal(below, at)


# ---------------------------------------------------------------- where the numbers come from


def test_a_seed_names_a_map_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert torch.equal(drawn(3).parameters.values, drawn(3).parameters.values)
    assert not torch.equal(drawn(3).parameters.values, drawn(4).parameters.values)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("signed", [False, True])
def test_the_numbers_are_one_draw_in_the_order_that_is_documented(signed):
    assert torch.equal(drawn(5, signed=signed).parameters.values, oracles.mirror_numbers(5, signed))


def test_the_two_distributions():
    plain, signed = (
        torch.cat([drawn(seed, signed=signed).parameters.values for seed in range(30)])
        for signed in (False, True)
    )
    assert float(plain.min()) >= 0 and float(plain.max()) < 0.01
    # 11400 numbers: standard errors of 3e-5 and 1e-4 in the means, and of 0.7 % in the signed ones'
    # deviation.
    assert float(plain.mean()) == pytest.approx(0.005, abs=1e-4)
    assert float(signed.mean()) == pytest.approx(0.0, abs=4e-4)
    assert float(signed.std()) == pytest.approx(0.01, rel=0.03)


def test_the_fingerprint_is_of_the_numbers_and_of_nothing_else(tmp_path):
    mirror = drawn()
    assert len(mirror.fingerprint) == 16 and int(mirror.fingerprint, 16) >= 0
    assert stored(tmp_path, mirror.parameters.values.tolist()).fingerprint == mirror.fingerprint
    changed = mirror.parameters.values.tolist()
    changed[200] = math.nextafter(changed[200], 1)
    assert len({mirror.fingerprint, drawn(0).fingerprint, stored(tmp_path, changed).fingerprint}) == 3


def test_the_shape_of_p_is_kept():
    mirror = drawn()
    for shape in ((), (0,), (2, 3), (2, 1, 4)):
        p = torch.full(shape, 0.3, dtype=torch.float64)
        assert mirror.f(p).shape == mirror.df(p).shape == shape


@pytest.mark.parametrize("scale", [0.0, -0.01, math.inf, math.nan])
def test_a_scale_that_is_not_positive_is_refused_by_name(scale):
    with pytest.raises(ValueError, match=r"divergence\.potential\.parameters\.scale="):
        RandomParameters(seed=42, scale=scale, signed=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("\x93NUMPY", "is not JSON"),
        ("{}", "holds a dict"),
        ("[]", "holds a list of 0"),
        (json.dumps([0.1] * 379), "holds a list of 379"),
        (json.dumps([0.1] * 379 + [math.nan]), "has nan at index 379"),
        (json.dumps([0.1] * 379 + [math.inf]), "has inf at index 379"),
        ("[" + "0.1, " * 379 + "1" * 400 + "]", "has inf at index 379"),
        (json.dumps(["0.1"] * 380), "has '0.1' at index 0"),
        (json.dumps([True] * 380), "has True at index 0"),
        (json.dumps([[0.1] * 380] * 380), "give finite numbers"),
        (
            json.dumps([0.1] * 100 + [-0.2] * 280),
            r"280 of its numbers are negative, the first -0.2 at index 100.*clip them at 0",
        ),
    ],
)
def test_a_file_that_is_no_map_is_refused_with_its_name_and_the_fix(tmp_path, text, reason):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"divergence\.potential\.parameters\.path={path}: .*{reason}"):
        ParametersFile(path=str(path), signed=False)


@pytest.mark.parametrize("path", ["nowhere.json", "mirrorpo:nothing", "."])
def test_a_file_that_cannot_be_read_is_refused_when_the_config_is_built(path):
    with pytest.raises(ValueError, match=rf"divergence\.potential\.parameters\.path={path}: cannot be read"):
        ParametersFile(path=path, signed=False)


def test_whole_numbers_in_a_file_are_numbers(tmp_path):
    mirror = stored(tmp_path, [0] * 379 + [1])
    assert (
        mirror.fingerprint
        == NeuralMirror(parameters=ParametersFile(path="mirrorpo:negative_entropy", signed=False)).fingerprint
    )
