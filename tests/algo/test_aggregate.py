import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.aggregate import FixedLength, SequenceMean, SequenceSum, TokenMean

NAN, INF = float("nan"), float("inf")
ORACLES = [
    (TokenMean(), oracles.token_mean),
    (SequenceMean(), oracles.sequence_mean),
    (SequenceSum(), oracles.sequence_sum),
    (FixedLength(length=7), lambda table, mask: oracles.fixed_length(table, mask, 7)),
]
AGGREGATIONS = [aggregation for aggregation, _ in ORACLES]

generated = settings(max_examples=60, deadline=None, derandomize=True, database=None)
masks = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=5)
)


def values(mask: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(aggregation, table, mask, denominator=None):
    leaf = table.clone().requires_grad_()
    return torch.autograd.grad(aggregation(leaf, mask, denominator), leaf)[0]


@pytest.mark.parametrize(("aggregation", "oracle"), ORACLES)
@generated
@given(masks)
def test_equals_the_oracle_on_ragged_masks(aggregation, oracle, rows):
    mask = torch.tensor(rows)
    table = values(mask)
    torch.testing.assert_close(
        float(aggregation(table, mask)), float(oracle(table.tolist(), rows)), rtol=1e-7, atol=1e-12
    )


def test_by_hand():
    # Trained: 6 in the first completion, 1 and 2 in the second, none in the third.
    table, mask = (
        torch.tensor([[6.0, 9.0], [1.0, 2.0], [5.0, 5.0]]),
        torch.tensor([[True, False], [True, True], [False, False]]),
    )
    torch.testing.assert_close(TokenMean()(table, mask), torch.tensor(9.0 / 3), rtol=1e-6, atol=0)
    torch.testing.assert_close(SequenceMean()(table, mask), torch.tensor((6.0 + 1.5) / 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        FixedLength(length=4)(table, mask), torch.tensor(9.0 / (3 * 4)), rtol=1e-6, atol=0
    )


def test_with_equal_lengths_all_are_proportional():
    mask = torch.tensor([[True, True, True, False]] * 3)
    table = values(mask)
    mean = TokenMean()(table, mask)
    torch.testing.assert_close(SequenceMean()(table, mask), mean)
    torch.testing.assert_close(FixedLength(length=6)(table, mask), mean * 3 / 6)


def test_fixed_length_gives_a_token_the_same_gradient_in_every_window():
    one = torch.tensor([[True, False, False], [False, False, False]])
    for mask in (one, torch.ones_like(one)):
        assert torch.equal(
            gradient(FixedLength(length=5), values(mask), mask)[0, 0], torch.tensor(0.1, dtype=torch.float64)
        )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@generated
@given(masks, st.integers(0, 3))
def test_parts_with_the_windows_denominator_add_up_to_the_window(aggregation, rows, parts):
    mask = torch.tensor(rows)
    table = values(mask)
    in_one = aggregation(table, mask)
    denominator = aggregation.denominator(mask)
    part_of = torch.arange(len(rows)) % (parts + 1)
    split = [
        aggregation(table[part_of == part], mask[part_of == part], denominator)
        for part in range(parts + 1)
        if bool((part_of == part).any())
    ]
    torch.testing.assert_close(torch.stack(split).sum(), in_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_window_without_a_trained_token_has_loss_zero_and_a_connected_gradient_of_zero(aggregation):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    table = torch.full((2, 3), NAN, requires_grad=True)
    loss = aggregation(table, mask)
    assert float(loss.detach()) == 0
    assert torch.equal(torch.autograd.grad(loss, table)[0], torch.zeros(2, 3))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30])
def test_what_is_under_the_mask_changes_neither_value_nor_gradient(aggregation, garbage):
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])
    clean = values(mask).masked_fill(~mask, 0.0)
    dirty = clean.masked_fill(~mask, garbage)
    assert torch.equal(aggregation(dirty, mask), aggregation(clean, mask))
    assert torch.equal(gradient(aggregation, dirty, mask), gradient(aggregation, clean, mask))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradcheck(aggregation):
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])
    assert torch.autograd.gradcheck(lambda table: aggregation(table, mask), values(mask).requires_grad_())


def test_a_length_below_one_is_refused_by_name():
    with pytest.raises(ValueError, match=r"algo\.aggregate\.length=0"):
        FixedLength(length=0)
