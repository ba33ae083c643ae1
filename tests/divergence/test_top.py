"""Sums over the likeliest tokens: unbiased at any k, and at both ends another estimator to the bit."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mirrorpo.core.top import likeliest
from mirrorpo.divergence.bregman import CorrectedBregman, ExactBregman
from mirrorpo.divergence.f_divergence import CorrectedFDivergence, ExactFDivergence
from mirrorpo.divergence.generators import Alpha, JensenShannon, SquaredHellinger, TotalVariation
from mirrorpo.divergence.potentials import ItakuraSaito, NegativeEntropy, Square, Tsallis
from mirrorpo.divergence.top import TopBregman, TopFDivergence

V = 11
DIRECTIONS, WHOSE = ("reverse", "forward"), ("anchor", "policy")
POTENTIALS = [NegativeEntropy(), Square(factor=1.0), ItakuraSaito(), Tsallis(q=0.5)]
GENERATORS = [JensenShannon(), SquaredHellinger(), TotalVariation(), Alpha(alpha=0.3), Alpha(alpha=-0.5)]


def three(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under policy, anchor and old policy."""
    draw = torch.Generator().manual_seed(0)
    tables = 2 * torch.randn(3, 4, V, dtype=torch.float64, generator=draw)
    log_p, log_q, log_old = tables.to(dtype).log_softmax(-1)
    return log_p.requires_grad_(), log_q, log_old


def tops(k: int):
    """Every divergence here with k tokens summed, its exact form, and its corrected form in one direction."""
    for direction, of in product(DIRECTIONS, WHOSE):
        for potential in POTENTIALS:
            settings = {"potential": potential, "direction": direction}
            corrected = CorrectedBregman(potential=potential) if direction == "reverse" else None
            yield TopBregman(**settings, k=k, of=of), ExactBregman(**settings), corrected
        for generator in GENERATORS:
            settings = {"generator": generator, "direction": direction}
            yield (
                TopFDivergence(**settings, k=k, of=of),
                ExactFDivergence(**settings),
                CorrectedFDivergence(**settings),
            )


@pytest.mark.parametrize("k", [0, 1, 4, V - 1])
def test_value_and_gradient_are_unbiased_off_policy_at_any_k(k):
    log_p, log_q, log_old = three()
    factor = torch.linspace(0.2, 1.0, 4, dtype=torch.float64)
    for top, exact, _ in tops(k):
        ours = (log_old.exp() * top(log_p, log_q, log_old)).sum(dim=-1)
        expected = exact(log_p, log_q, log_old)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-13, msg=str(top))
        gradient, its = (torch.autograd.grad((factor * of).sum(), log_p)[0] for of in (ours, expected))
        torch.testing.assert_close(gradient, its, rtol=1e-8, atol=1e-11, msg=str(top))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_token_is_the_corrected_form_and_all_tokens_the_exact_one_to_the_bit(dtype):
    log_p, log_q, log_old = three(dtype)
    weights = torch.linspace(0.1, 2.0, 4 * V, dtype=dtype).view(4, V)

    def same(ours: Tensor, expected: Tensor) -> bool:
        both = [(of, torch.autograd.grad((weights * of).sum(), log_p)[0]) for of in (ours, expected)]
        return all(map(torch.equal, *both))

    for top, _, corrected in tops(0):
        if corrected is not None:
            assert same(top(log_p, log_q, log_old), corrected(log_p, log_q, log_old)), top
    for k in (V, V + 60):
        for top, exact, _ in tops(k):
            ours, expected = top(log_p, log_q, log_old), exact(log_p, log_q, log_old)
            assert same(ours, expected[:, None].expand(4, V)), top


def test_the_variance_falls_with_k_where_the_anchor_is_peaked():
    log_q = (-1.5 * torch.arange(V, dtype=torch.float64)).log_softmax(-1)
    log_p = log_q + 0.3 * torch.randn(V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_p = log_p.log_softmax(-1)
    variances = []
    for k in range(V + 1):
        top = TopBregman(potential=NegativeEntropy(), direction="reverse", k=k, of="anchor")
        value = top(log_p, log_q, log_p)
        mean = (log_p.exp() * value).sum()
        variances.append(float((log_p.exp() * (value - mean).square()).sum()))
    # Not with every token: one of no divergence takes from a sum without making it steadier.
    assert variances[6] < variances[0] / 4 and variances[-1] < 1e-30, variances


def test_the_likeliest_tokens_are_ascending_and_no_more_than_there_are():
    logprobs = torch.tensor([[0.1, 0.5, 0.1, 0.3]]).log()
    assert likeliest(logprobs, 2).tolist() == [[1, 3]]
    assert likeliest(logprobs, 9).tolist() == [[0, 1, 2, 3]]
    assert likeliest(logprobs, 0).shape == (1, 0)


@pytest.mark.parametrize("kind", [TopBregman, TopFDivergence])
def test_a_number_of_tokens_below_zero_is_refused_by_name(kind):
    inner = {"potential": Square(factor=1.0)} if kind is TopBregman else {"generator": JensenShannon()}
    with pytest.raises(ValueError, match=r"divergence\.k=-1"):
        kind(**inner, direction="reverse", k=-1, of="anchor")
