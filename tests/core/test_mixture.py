"""A mixture of two distributions: of probabilities, to the bit where it is one of them."""

import pytest
import torch

from mirrorpo.core.mixture import mixture

INF, NAN = float("inf"), float("nan")


def tables(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    first, second = (6 * torch.randn(2, 5, 13, dtype=torch.float64, generator=draw)).to(dtype).log_softmax(-1)
    return first, second


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_probabilities_are_mixed_and_sum_to_one(dtype, tolerance):
    first, second = tables(dtype)
    for share in (1e-9, 0.25, 0.5, 1 - 1e-9):
        ours = mixture(first, second, share)
        expected = (1 - share) * first.double().exp() + share * second.double().exp()
        torch.testing.assert_close(ours.double().exp(), expected, rtol=tolerance, atol=0)
        torch.testing.assert_close(ours.exp().sum(-1), torch.ones(5, dtype=dtype), rtol=tolerance, atol=0)
    # The geometric mean is another distribution.
    middle = ((first + second) / 2).log_softmax(-1)
    assert float((mixture(first, second, 0.5) - middle).abs().max()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_either_end_and_where_both_are_one_it_is_that_to_the_bit(dtype):
    first, second = tables(dtype)
    assert torch.equal(mixture(first, second, 0.0), first) and torch.equal(
        mixture(first, second, 1.0), second
    )
    for share in (0.0, 0.3, 0.5, 1.0):
        assert torch.equal(mixture(first, first.clone(), share), first)


def test_what_neither_part_allows_stays_so_and_what_is_unread_stays_unread():
    first = torch.tensor([-INF, -INF, -1.0, NAN])
    second = torch.tensor([-INF, -1.0, -INF, NAN])
    ours = mixture(first, second, 0.5).tolist()
    assert ours[0] == -INF and ours[1:3] == pytest.approx([-1.693147] * 2) and ours[3] != ours[3]
