"""Drawing by inverse distribution function: frequencies, log-probabilities, and the edges of the uniform."""

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from mirrorpo.rollout.sampling import BLOCK, _invert, draw

P = torch.tensor([0.4, 0.05, 0.2, 0.25, 0.07, 0.03], dtype=torch.float64)
LAST = 1 - 2**-24  # the largest number torch.rand gives in float32
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])


def tempered(p: Tensor, temperature: float) -> Tensor:
    powered = p ** (1 / temperature)
    return powered / powered.sum()


def tokens(p: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    return draw(p.log().float().expand(len(uniform), -1), uniform, temperature, top_p)[0]


def logprobs(p: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    return draw(p.log().float().expand(len(uniform), -1), uniform, temperature, top_p)[1]


def counts(drawn: Tensor, size: int) -> Tensor:
    return torch.bincount(drawn, minlength=size).double()


def grid(count: int) -> Tensor:
    """Uniform numbers at the middles of `count` equal intervals."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


@TEMPERATURES
def test_frequencies_are_the_tempered_probabilities(temperature: float) -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    expected = tempered(P, temperature) * len(uniform)
    assert chisquare(counts(tokens(P, uniform, temperature), len(P)), expected).pvalue > 0.01


@TEMPERATURES
def test_an_even_grid_of_uniforms_gives_the_probabilities_themselves(temperature: float) -> None:
    share = counts(tokens(P, grid(10_000), temperature), len(P)) / 10_000
    torch.testing.assert_close(share, tempered(P, temperature), rtol=0, atol=1.5e-4)


@TEMPERATURES
def test_logprobs_are_those_of_the_tempered_distribution(temperature: float) -> None:
    uniform = grid(500)
    expected = tempered(P, temperature).log()[tokens(P, uniform, temperature)].float()
    torch.testing.assert_close(logprobs(P, uniform, temperature), expected)


def test_logits_need_not_be_normalised() -> None:
    uniform = grid(50)
    logits = P.log().float().expand(50, -1)
    torch.testing.assert_close(draw(logits + 7, uniform, 1.0, 1.0), draw(logits, uniform, 1.0, 1.0))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, [0]),
        (0.39, [0]),
        (0.5, [0, 3]),
        (0.7, [0, 2, 3]),
        (0.9, [0, 2, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
        (0.98, [0, 1, 2, 3, 4, 5]),
        (1.0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: Sequence[int]) -> None:
    assert tokens(P, grid(2000), top_p=top_p).unique().tolist() == kept


def test_top_p_samples_the_kept_tokens_in_proportion() -> None:
    share = counts(tokens(P, grid(10_000), top_p=0.7), len(P)) / 10_000
    torch.testing.assert_close(
        share, torch.tensor([0.4, 0, 0.2, 0.25, 0, 0], dtype=torch.float64) / 0.85, rtol=0, atol=1.5e-4
    )


def test_top_p_logprobs_are_of_the_cut_distribution() -> None:
    uniform = grid(500)
    expected = (P / 0.85).log()[tokens(P, uniform, top_p=0.7)].float()
    torch.testing.assert_close(logprobs(P, uniform, top_p=0.7), expected)


def test_top_p_is_of_the_tempered_distribution() -> None:
    # At temperature 0.5 the first token alone has 0.16 / 0.2708 = 0.59.
    assert tokens(P, grid(2000), temperature=0.5, top_p=0.55).unique().tolist() == [0]


def test_top_p_cuts_each_row_by_itself() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]).log()
    drawn = [draw(logits, torch.full((3,), u), 1.0, 0.8)[0].tolist() for u in (0.001, 0.999)]
    assert drawn == [[0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("uniform", [0.0, 1e-30, 0.25, 0.5, LAST])
@pytest.mark.parametrize(
    "p", [[0, 0, 1, 0], [0, 0.5, 0, 0.5], [0.5, 0, 0, 0.5], [0.5, 0.5, 0, 0], [0, 1e-9, 1, 0]], ids=str
)
def test_a_token_of_probability_zero_is_never_drawn(p: list[float], uniform: float) -> None:
    token = int(tokens(torch.tensor(p, dtype=torch.float64), torch.tensor([uniform])))
    assert p[token] > 0


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (LAST, 5)])
def test_the_ends_of_the_uniform_draw_the_first_and_the_last_token(uniform: float, token: int) -> None:
    assert tokens(P, torch.tensor([uniform])).tolist() == [token]


@pytest.mark.parametrize("uniform", [0.0, LAST])
def test_the_ends_of_the_uniform_draw_a_kept_token_under_top_p(uniform: float) -> None:
    assert int(tokens(P, torch.tensor([uniform]), top_p=0.5)) in (0, 3)


def test_greedy_takes_the_likeliest_token_whatever_the_uniform() -> None:
    assert tokens(P.flip(0), torch.tensor([0.0, 0.5, LAST]), temperature=0.0).tolist() == [5, 5, 5]


def test_greedy_is_certain_of_its_token() -> None:
    token_logprobs = logprobs(P, grid(3), temperature=0.0)
    assert token_logprobs.dtype == torch.float32
    assert token_logprobs.tolist() == [0, 0, 0]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, uniform = 3 * torch.randn(40, 9, generator=generator), torch.rand(40, generator=generator)
    together = draw(logits, uniform, 0.8, 0.9)
    alone = [draw(logits[i : i + 1], uniform[i : i + 1], 0.8, 0.9) for i in range(40)]
    assert torch.equal(together[0], torch.cat([token for token, _ in alone]))
    torch.testing.assert_close(together[1], torch.cat([logprob for _, logprob in alone]))


def test_half_precision_logits_are_read_in_float32() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]]).bfloat16()
    uniform = torch.tensor([0.9])
    torch.testing.assert_close(
        draw(logits, uniform, 0.7, 1.0), draw(logits.float(), uniform, 0.7, 1.0), rtol=0, atol=0
    )


LARGE = 150_000


def large() -> Tensor:
    return 3 * torch.randn(LARGE, generator=torch.Generator().manual_seed(1))


def test_in_a_large_vocabulary_the_middle_of_a_tokens_interval_draws_it() -> None:
    p = torch.softmax(large().double(), dim=0)
    # Tokens whose interval is wide enough for a float32 number to lie inside.
    picked = (p > 1e-6).nonzero().squeeze(1)[::400]
    middle = (p.cumsum(0) - p / 2)[picked].float()
    assert len(picked) > 50
    assert torch.equal(draw(large().expand(len(picked), -1), middle, 1.0, 1.0)[0], picked)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK - 7])
def test_frequencies_are_the_probabilities_on_either_side_of_a_block(size: int) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(size, generator=generator)
    expected = 20_000 * torch.softmax(logits.double() / 0.8, dim=0)
    drawn = counts(
        draw(logits.expand(20_000, -1), torch.rand(20_000, generator=generator), 0.8, 1.0)[0], size
    )
    common = expected >= 5
    observed, expected = (
        torch.cat([values[common], values[~common].sum()[None]]) for values in (drawn, expected)
    )
    assert chisquare(observed, expected).pvalue > 0.01


def test_a_target_that_rounding_moved_to_the_end_is_no_token_of_probability_zero() -> None:
    assert _invert(torch.tensor([[0.0, 0.25, 1.0, 1.0]]), torch.tensor([[1.0]])).tolist() == [[2]]


def test_in_a_large_vocabulary_logprobs_are_exact() -> None:
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(2))
    token, logprob = draw(large().expand(50, -1), uniform, 1.0, 1.0)
    torch.testing.assert_close(
        logprob.double(), torch.log_softmax(large().double(), dim=0)[token], rtol=1e-6, atol=1e-5
    )


def test_in_a_large_vocabulary_the_last_uniform_draws_a_token_that_exists() -> None:
    logits = large()
    logits[-1000:] = -torch.inf
    assert int(draw(logits[None], torch.tensor([LAST]), 1.0, 1.0)[0]) < LARGE - 1000


def test_top_p_in_a_large_vocabulary_keeps_the_set_that_reaches_it() -> None:
    # Float32 sums 150k terms here; the set may differ by tokens of that rounding, no more.
    p, order = torch.softmax(large().double(), dim=0).sort(descending=True)
    allowed = order[: int((p.cumsum(0) < 0.9 + 1e-5).sum()) + 1]
    uniform = torch.rand(40, generator=torch.Generator().manual_seed(3))
    drawn = draw(large().expand(40, -1), uniform, 1.0, 0.9)[0]
    assert torch.isin(drawn, allowed).all()
