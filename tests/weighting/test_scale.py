import math

import pytest
import torch

from mirrorpo.weighting.scale import between, check_range

MASK = torch.tensor([[True, True, False, True], [True, False, False, False], [False] * 4])


def test_the_least_important_token_gets_low_the_most_important_high_and_the_rest_lies_between_in_proportion():
    weights = between(
        torch.tensor([[-3.0, 1.0, 50.0, -1.0], [7.0, 0.0, 0.0, 0.0], [1.0] * 4]), MASK, 0.5, 2.0
    )
    torch.testing.assert_close(weights[0, [0, 1, 3]], torch.tensor([0.5, 2.0, 1.25]))
    assert float(weights[1, 0]) == 0.5, "one token alone has no rank"
    assert bool(weights.isfinite().all())


def test_a_shift_or_a_positive_factor_changes_no_weight():
    importance = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = between(importance, MASK, 0.5, 2.0)
    torch.testing.assert_close(between(5 * importance + 3, MASK, 0.5, 2.0)[MASK], weights[MASK])


def test_what_is_under_the_mask_is_not_read():
    importance = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for garbage in (math.nan, math.inf, -math.inf):
        assert torch.equal(
            between(importance.masked_fill(~MASK, garbage), MASK, 0.5, 2.0),
            between(importance, MASK, 0.5, 2.0),
        )


@pytest.mark.parametrize(
    ("low", "high"), [(-0.1, 1.0), (1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)]
)
def test_a_range_that_is_none_is_refused(low: float, high: float):
    with pytest.raises(ValueError, match=r"weighting\.low"):
        check_range(low, high)
