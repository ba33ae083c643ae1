"""Random subsets: their size, that every token has its chance, and where they are drawn."""

import pytest
import torch
from completions import completion_of
from worked import SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.entropy import TopEntropy
from mirrorpo.weighting.subset import RandomShare, RandomShareOfSpans, quotas


class Unread:
    def with_offsets(self, batch: RolloutBatch) -> None:
        raise AssertionError("a share of the tokens needs no text")

    logprobs = entropies = cut = importance = with_offsets


class Falling(Unread):
    def entropies(self, batch: RolloutBatch) -> torch.Tensor:
        return -torch.arange(batch.present.shape[1]).expand(batch.present.shape).float()


def rows(*lengths: int) -> RolloutBatch:
    completions = [completion_of([2 + row, *range(100, 99 + length)]) for row, length in enumerate(lengths)]
    return collate(completions, [1.0] * len(lengths), pad_id=0, mask_truncated=False)


def test_as_many_tokens_are_drawn_as_the_most_uncertain_that_entropy_chooses() -> None:
    batch = rows(1, 2, 5, 6, 10, 23)
    chosen = TopEntropy(share=0.2, over="completion")(batch, Falling(), 0).sum(dim=1)
    for stretches in (1, 3, 10):
        drawn = RandomShare(share=0.2, stretches=stretches)(batch, Unread(), 0)
        assert torch.equal(drawn.sum(dim=1), chosen), stretches
        assert not bool(drawn[~batch.present].any())


def test_a_stretchs_quota_is_its_share_in_expectation_and_always_up_to_rounding() -> None:
    for count, size, stretches in [(7, 3, 3), (8, 7, 5), (10, 2, 10), (5, 5, 2), (3, 1, 10), (12, 5, 1)]:
        edges = [count * stretch // stretches for stretch in range(stretches + 1)]
        # Quotas change at multiples of 1 / count alone, so the midpoints between them are all there is.
        every = torch.tensor([quotas(edges, size, (place + 0.5) / count) for place in range(count)])
        exact = torch.tensor(edges).diff() * size / count
        torch.testing.assert_close(every.double().mean(dim=0), exact.double())
        assert bool(((every - exact).abs() < 1).all()) and bool((every <= torch.tensor(edges).diff()).all())
        assert bool((every.sum(dim=1) == size).all())


@pytest.mark.parametrize("stretches", [1, 3])
def test_every_token_has_the_same_chance(stretches: int) -> None:
    batch, draws = rows(7), 800
    drawn = torch.stack(
        [RandomShare(share=0.3, stretches=stretches)(batch, Unread(), seed)[0] for seed in range(draws)]
    )
    # 3 of 7; four and a half standard errors.
    spread = 4.5 * (3 / 7 * 4 / 7 / draws) ** 0.5
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((7,), 3 / 7), rtol=0, atol=spread)


def test_only_trained_tokens_are_drawn() -> None:
    batch = rows(9)
    mask = batch.mask.clone()
    mask[0, 2:7] = False
    drawn = RandomShare(share=0.5, stretches=2)(batch.with_(mask=mask), Unread(), 0)
    assert not bool(drawn[~mask].any()) and float(drawn.sum()) == 2


def test_a_share_of_the_spans_keeps_credit_each_as_often() -> None:
    weighting, batch, draws = RandomShareOfSpans(spans=SPANS, share=0.2), written(WORKED), 150
    drawn = torch.stack([weighting(batch, Table({}), seed)[0] for seed in range(draws)])
    first, second = drawn[:, 0:5], drawn[:, 6:13]
    # One of the two spans, on all of its tokens, and nothing else.
    assert bool((first.sum(dim=1) / 5 + second.sum(dim=1) / 7 == 1).all())
    assert bool((first == first[:, :1]).all()) and not bool(drawn[:, 13:].any())
    assert float(first.mean()) == pytest.approx(0.5, abs=4 * 0.5 / draws**0.5)


def test_a_completion_without_a_span_keeps_its_credit_and_a_share_is_one() -> None:
    weights = RandomShareOfSpans(spans=SPANS, share=1.0)(written("no calculation", WORKED), Table({}), 0)
    assert bool((weights[0] == 1).all())
    assert float(weights[1].sum()) == 12
    for settings in ({"share": 0.0, "stretches": 1}, {"share": 1.5, "stretches": 1}):
        with pytest.raises(ValueError, match=r"^weighting\.share="):
            RandomShare(**settings)
    with pytest.raises(ValueError, match=r"^weighting\.stretches=0: give at least 1"):
        RandomShare(share=0.2, stretches=0)
