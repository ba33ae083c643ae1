import math

import pytest
import torch
from completions import completion_of

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.span import Span
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.random import RandomSpans, RandomTokens


class Unread:
    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        raise AssertionError("random weights need no score")

    entropies = with_offsets = cut = importance = logprobs


def batch(*ids: list[int]) -> RolloutBatch:
    completions = [completion_of(row) for row in ids]
    return collate(completions, [1.0] * len(ids), pad_id=0, mask_truncated=False)


def test_weights_are_uniform_over_their_range_and_independent_of_each_other():
    rollout = batch(*[[2 + row, *range(100, 600)] for row in range(20)])
    weights = RandomTokens(low=0.5, high=2.0)(rollout, Unread(), 0)
    assert float(weights.min()) >= 0.5 and float(weights.max()) < 2.0
    # 10,020 draws: four standard errors of the mean and of the share in a tenth of the range.
    assert float(weights.mean()) == pytest.approx(1.25, abs=4 * 1.5 / math.sqrt(12 * 10020))
    for tenth in range(10):
        inside = (weights >= 0.5 + 0.15 * tenth) & (weights < 0.65 + 0.15 * tenth)
        assert float(inside.double().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 10020))
    neighbours = torch.corrcoef(torch.stack([weights[:, :-1].flatten(), weights[:, 1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 4 / math.sqrt(10000)


def test_seeds_and_completions_have_their_own_draws():
    weighting, rollout = (
        RandomTokens(low=0.5, high=2.0),
        batch([2, 3, 4], [2, 3, 5], [2, 3, 4]),
    )
    weights = weighting(rollout, Unread(), 0)
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2]), "the same completion"
    assert not torch.equal(weights, weighting(rollout, Unread(), 1))


class Written(Unread):
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def with_offsets(self, batch: RolloutBatch) -> list[TokenOffsets]:
        return [
            TokenOffsets(text=text, offsets=[(place, place + 1) for place in range(len(text))])
            for text in self.texts
        ]


class FirstTwoPairs:
    """Tokens 1 and 2 are a span, tokens 3 and 4 another."""

    def __call__(self, token_offsets: TokenOffsets) -> list[Span]:
        return [Span(1, 3, "calculation"), Span(3, 5, "sentence")]


def test_a_spans_tokens_share_one_draw_and_tokens_of_no_span_have_the_middle():
    weighting, rollout = (
        RandomSpans(spans=FirstTwoPairs(), low=0.5, high=2.0),
        batch([2, 3, 4, 5, 6, 7]),
    )
    weights = weighting(rollout, Written("abcdef"), 0)[0]
    assert weights[0] == weights[5] == 1.25
    assert weights[1] == weights[2] != weights[3] == weights[4]
    assert all(0.5 <= float(weight) < 2.0 for weight in weights)
    assert not torch.equal(weights, weighting(rollout, Written("abcdef"), 1)[0])


def test_over_many_completions_a_spans_weight_is_uniform():
    rollout = batch(*[[row, 3, 4, 5, 6, 7] for row in range(2, 1002)])
    weights = RandomSpans(spans=FirstTwoPairs(), low=0.5, high=2.0)(rollout, Written(*["abcdef"] * 1000), 0)
    assert float(weights[:, 1].mean()) == pytest.approx(1.25, abs=4 * 1.5 / math.sqrt(12 * 1000))
    assert abs(float(torch.corrcoef(torch.stack([weights[:, 1], weights[:, 3]]))[0, 1])) < 4 / math.sqrt(1000)
