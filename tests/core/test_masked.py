import math

import jaxtyping
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.core.masked import group_mean, group_size, masked, masked_mean, masked_sum, mean_one

NAN, INF = float("nan"), float("inf")

generated = settings(max_examples=80, deadline=None, derandomize=True, database=None)
masks = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=5)
)
weight = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
weighted = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.tuples(weight, st.booleans()), min_size=width, max_size=width), min_size=1, max_size=4
    )
)


def drawn_weights(rows, dtype=torch.float64):
    return torch.tensor([[value for value, _ in row] for row in rows], dtype=dtype), torch.tensor(
        [[counted for _, counted in row] for row in rows]
    )


@generated
@given(masks)
def test_sum_and_mean_equal_a_loop_over_the_tokens_that_count(rows):
    mask = torch.tensor(rows)
    values = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = [
        value
        for value, counted in zip(values.flatten().tolist(), mask.flatten().tolist(), strict=True)
        if counted
    ]
    torch.testing.assert_close(float(masked_sum(values, mask)), float(sum(kept)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        float(masked_mean(values, mask)), sum(kept) / len(kept) if kept else 0.0, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("reduce", [masked_sum, masked_mean, lambda values, mask: masked(values, mask).sum()])
@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
def test_what_is_under_the_mask_reaches_neither_value_nor_gradient(reduce, garbage):
    values = torch.tensor([[1.0, garbage], [2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    result = reduce(values, mask)
    (gradient,) = torch.autograd.grad(result, values)
    assert bool(result.isfinite())
    assert bool(gradient.isfinite().all())
    assert float(gradient[0, 1]) == 0


@pytest.mark.parametrize("reduce", [masked_sum, masked_mean])
def test_without_a_token_that_counts_value_and_gradient_are_zero(reduce):
    values = torch.full((2, 2), NAN, requires_grad=True)
    result = reduce(values, torch.zeros(2, 2, dtype=torch.bool))
    assert float(result.detach()) == 0
    assert torch.equal(torch.autograd.grad(result, values)[0], torch.zeros(2, 2))


def test_masked_keeps_what_counts_to_the_bit():
    values = torch.tensor([[1e-45, -0.1, NAN]])
    assert torch.equal(
        masked(values, torch.tensor([[True, True, False]])), torch.tensor([[1e-45, -0.1, 0.0]])
    )


@generated
@given(weighted)
def test_mean_one_equals_the_oracle(rows):
    weights, mask = drawn_weights(rows)
    expected = torch.tensor(oracles.mean_one(weights.tolist(), mask.tolist()), dtype=torch.float64)
    torch.testing.assert_close(mean_one(weights, mask), expected, rtol=1e-12, atol=0)


@generated
@given(weighted)
def test_mean_one_has_mean_one_over_the_trained_tokens_of_every_completion_with_weight(rows):
    weights, mask = drawn_weights(rows)
    scaled = mean_one(weights, mask)
    for row in range(len(rows)):
        if float(masked(weights, mask)[row].sum()) > 0:
            torch.testing.assert_close(float(scaled[row][mask[row]].mean()), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("constant", [1.0, 0.1, 1 / 3, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_one_gives_ones_to_the_bit_for_constant_weights_at_any_length(constant, dtype):
    # Seven times 0.1 over their sum is not one in single precision.
    mask = torch.ones(33, 33, dtype=torch.bool).tril(-1)
    assert torch.equal(mean_one(torch.full(mask.shape, constant, dtype=dtype), mask), mask.to(dtype))


def test_mean_one_recognises_a_constant_in_each_completion_alone():
    weights = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.2, 0.3], [0.7, 0.7, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    scaled = mean_one(weights, mask)
    assert torch.equal(scaled[0], torch.ones(3))
    torch.testing.assert_close(scaled[1], torch.tensor([0.5, 1.0, 1.5]))
    assert torch.equal(scaled[2], torch.tensor([1.0, 1.0, 0.0]))


def test_mean_one_does_not_change_when_a_weighting_is_rescaled():
    weights = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    torch.testing.assert_close(mean_one(weights * 37, mask), mean_one(weights, mask), rtol=1e-12, atol=0)


def test_mean_one_keeps_a_completion_without_weight_at_zero():
    assert torch.equal(mean_one(torch.zeros(1, 3), torch.tensor([[True, True, False]])), torch.zeros(1, 3))


def test_mean_one_ignores_what_is_under_the_mask():
    weights = torch.tensor([[1.0, 3.0, NAN], [2.0, -5.0, INF]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(mean_one(weights, mask), torch.tensor([[0.5, 1.5, 0.0], [1.0, 0.0, 0.0]]))


def test_mean_one_gives_constants():
    weights = torch.ones(1, 2, requires_grad=True)
    assert not mean_one(weights, torch.ones(1, 2, dtype=torch.bool)).requires_grad


@pytest.mark.parametrize("bad", [-1e-6, NAN, INF])
def test_mean_one_refuses_weights_that_are_none(bad):
    with pytest.raises(ValueError, match="finite and non-negative"):
        mean_one(torch.tensor([[1.0, bad]]), torch.ones(1, 2, dtype=torch.bool))


def test_group_mean_and_group_size_leave_out_missing_values_and_go_by_name():
    values, group = torch.tensor([1.0, 4.0, NAN, 0.0, NAN, 2.0]), torch.tensor([9, -3, 9, 9, 5, -3])
    assert torch.equal(group_mean(values, group), torch.tensor([0.5, 3.0, 0.5, 0.5, 0.0, 3.0]))
    assert torch.equal(group_size(values, group), torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 2.0]))


@generated
@given(
    st.lists(
        st.tuples(st.one_of(st.just(NAN), st.floats(-1e3, 1e3)), st.integers(0, 3)), min_size=1, max_size=10
    )
)
def test_group_mean_equals_a_loop(rows):
    values, group = (
        torch.tensor([value for value, _ in rows], dtype=torch.float64),
        torch.tensor([name for _, name in rows]),
    )
    for i, mean in enumerate(group_mean(values, group).tolist()):
        known = [value for value, name in rows if name == rows[i][1] and not math.isnan(value)]
        torch.testing.assert_close(mean, sum(known) / len(known) if known else 0.0, rtol=1e-9, atol=1e-9)


def test_group_mean_of_equal_values_is_the_value_to_the_bit():
    for size in range(1, 33):
        values = torch.full((size,), 0.1)
        assert torch.equal(group_mean(values, torch.zeros(size, dtype=torch.long)), values), size


def test_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_one(torch.ones(2, 3), torch.ones(3, 2, dtype=torch.bool))
