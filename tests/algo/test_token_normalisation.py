import pytest
import torch

from mirrorpo.algo.token_normalisation import Whitened

NAN = float("nan")


def test_whitened_credit_has_mean_zero_and_variance_one_over_trained_tokens():
    draw = torch.Generator().manual_seed(0)
    credit = 3 + 2 * torch.randn(4, 6, dtype=torch.float64, generator=draw)
    mask = torch.rand(4, 6, generator=draw) < 0.6
    centre, scale = Whitened(epsilon=0.0)(credit.where(mask, torch.tensor(NAN, dtype=torch.float64)), mask)
    whitened = ((credit - centre) / scale)[mask]
    torch.testing.assert_close(whitened.mean(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(whitened.var(correction=0), torch.ones((), dtype=torch.float64))
    _, wider = Whitened(epsilon=0.0, ddof=1)(credit, mask)
    torch.testing.assert_close(wider, credit[mask].std())


def test_equal_credit_everywhere_becomes_zero_and_not_nan():
    credit, mask = torch.full((2, 3), 0.5), torch.ones(2, 3, dtype=torch.bool)
    centre, scale = Whitened(epsilon=0.0)(credit, mask)
    assert not bool(((credit - centre) / scale).any())


def test_an_epsilon_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"algo\.token_normalisation\.epsilon=-1"):
        Whitened(epsilon=-1.0)
    with pytest.raises(ValueError, match=r"algo\.token_normalisation\.ddof=2"):
        Whitened(epsilon=0.0, ddof=2)


def test_of_a_single_token_the_variance_is_zero():
    centre, scale = Whitened(epsilon=0.5, ddof=1)(torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]]))
    assert (float(centre), float(scale)) == (3.0, 0.5)
