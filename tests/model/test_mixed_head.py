"""The head of a mixture of two models, against tables over the vocabulary."""

import pytest
import torch

from mirrorpo.core.mixture import mixture
from mirrorpo.core.top import TopTokens, likeliest
from mirrorpo.model.head import Head
from mirrorpo.model.mixed_head import MixedHead

VOCABULARY, WIDTHS, POSITIONS = 23, (6, 9), 14


def parts() -> tuple[MixedHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A mixed head of two widths, its hidden states, and both parts' log-probabilities."""
    draw = torch.Generator().manual_seed(0)
    heads, states = [], []
    for width, softcap in zip(WIDTHS, (None, 4.0), strict=True):
        projection = torch.nn.Linear(width, VOCABULARY, bias=softcap is not None)
        with torch.no_grad():
            for parameter in projection.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
        heads.append(Head(projection=projection, softcap=softcap, scale=1.0, temperature=0.7))
        states.append(torch.randn(POSITIONS, width, generator=draw))
    head = MixedHead(first=heads[0], second=heads[1], share=0.3)
    with torch.no_grad():
        tables = [part(hidden) for part, hidden in zip(heads, states, strict=True)]
    return head, torch.cat(states, dim=1), *tables


@torch.no_grad()
def test_it_gives_the_mixture_of_both_parts_over_the_vocabulary_and_at_a_few_tokens():
    head, hidden, first, second = parts()
    expected = mixture(first, second, 0.3)
    assert torch.equal(head.prepared()(hidden), expected)
    drawn = torch.arange(POSITIONS)[:, None] % VOCABULARY
    known = TopTokens(drawn.expand(-1, 2), torch.cat([part.gather(1, drawn) for part in (first, second)], 1))
    ids = likeliest(first, 5)
    torch.testing.assert_close(head.logprobs_at(hidden, ids, known), expected.gather(1, ids))


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 15, 1000])
def test_its_likeliest_tokens_are_those_of_the_mixture_whatever_the_chunk(chunk):
    head, hidden, first, second = parts()
    expected = mixture(first, second, 0.3)
    for k in (1, 4, VOCABULARY + 2):
        ours = head.likeliest(hidden, k, chunk)
        assert torch.equal(ours.ids, likeliest(expected, k))
        torch.testing.assert_close(ours.logprobs, expected.gather(1, ours.ids))
    # Not those that both parts like best.
    assert not torch.equal(head.likeliest(hidden, 4, chunk).ids, likeliest(first, 4))
    assert head.likeliest(hidden[:0], 4, chunk).ids.shape == (0, 4)
    assert head.entries == VOCABULARY * sum(WIDTHS)
