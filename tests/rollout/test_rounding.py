"""What a weight becomes at each precision."""

import math

import pytest
import torch

from mirrorpo.rollout.rounding import LARGEST, rounded

PRECISIONS = ("bf16", "fp8", "int8")


def weight() -> torch.Tensor:
    return torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 3, 6)[:, None]


def test_each_number_goes_to_the_nearest_that_the_precision_has() -> None:
    given = weight()
    # bfloat16 has 8 bits of a number, float8 e4m3 has 4; of int8 the grid is even, of half a step.
    off = {precision: (rounded(given, precision) - given).abs() for precision in PRECISIONS}
    scale = given.abs().amax(dim=1, keepdim=True)
    assert bool((off["bf16"] <= given.abs() * 2.0**-8).all())
    assert bool((off["int8"] <= scale / 127 / 2 * 1.0001).all())
    # Below its normal numbers float8 has an even grid too.
    grid = scale / 448 * 2.0**-9
    assert bool((off["fp8"] <= torch.maximum(given.abs() * 2.0**-4, grid / 2) * 1.0001).all())
    for precision in PRECISIONS:
        assert float(off[precision].max()) > 0 and off[precision].dtype == torch.float32


def test_rows_have_scales_of_their_own_and_what_is_rounded_stays() -> None:
    given = weight()
    for precision in PRECISIONS:
        once = rounded(given, precision)
        torch.testing.assert_close(rounded(once, precision), once, rtol=1e-6, atol=0)
        rows = torch.cat([rounded(row[None], precision) for row in given])
        assert torch.equal(rows, once), precision
        stacked = rounded(given.reshape(2, 3, 40), precision)
        assert torch.equal(stacked.reshape(6, 40), once), precision
    # The largest of a row is met, but for the last digit.
    for precision in LARGEST:
        torch.testing.assert_close(
            rounded(given, precision).abs().amax(dim=1), given.abs().amax(dim=1), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_of_zeros_and_of_the_smallest_numbers_are_finite(precision: str) -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-44, 0.0], [3e38, -3e38]])
    out = rounded(rows, precision)  # type: ignore[arg-type]
    assert bool(out.isfinite().all()) and out[0].tolist() == [0.0, 0.0]
    assert math.isclose(float(out[2, 0]), 3e38, rel_tol=0.01)
