import math

import pytest
import torch
from completions import completion_of

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.entropy import SoftEntropy, TopEntropy


class Known:
    def __init__(self, entropy: list[list[float]]) -> None:
        self.entropy = torch.tensor(entropy)

    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        raise AssertionError("only entropies are read")

    with_offsets = cut = importance = logprobs

    def entropies(self, batch: RolloutBatch) -> torch.Tensor:
        return self.entropy


def batch(*lengths: int) -> RolloutBatch:
    completions = [completion_of([2] * n) for n in lengths]
    return collate(completions, [1.0] * len(lengths), pad_id=0, mask_truncated=False)


def test_the_most_uncertain_fifth_of_each_completion_gets_all_credit():
    scorer = Known([[0.1, 0.9, 0.2, 0.3, 0.4, 0.0], [0.5, 0.4, 0.0, 0.0, 0.0, 0.0]])
    # A fifth of 6 tokens is two, rounded up; of 2 it is one.
    weights = TopEntropy(share=0.2, over="completion")(batch(6, 2), scorer, 0)
    assert weights.tolist() == [[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]]


def test_over_the_batch_the_tokens_of_all_completions_are_ranked_together():
    scorer = Known([[0.1, 0.9, 0.8, 0.7, 0.4, 0.0], [0.5, 0.4, 9.0, 9.0, 9.0, 9.0]])
    weights = TopEntropy(share=0.25, over="batch")(batch(6, 2), scorer, 0)
    assert weights.tolist() == [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("count", [1, 4, 5, 10, 15, 35])
def test_a_share_is_counted_without_rounding_noise_and_ties_go_to_the_earlier_token(count: int):
    weights = TopEntropy(share=0.2, over="completion")(batch(count), Known([[0.5] * count]), 0)
    assert weights[0].tolist() == [1.0] * math.ceil(count / 5) + [0.0] * (count - math.ceil(count / 5))


def test_untrained_tokens_take_no_part():
    rollout = batch(4)
    rollout = rollout.with_(mask=torch.tensor([[True, False, True, True]]))
    scorer = Known([[0.2, 5.0, 0.1, 0.3]])
    assert TopEntropy(share=0.3, over="completion")(rollout, scorer, 0).tolist() == [[0, 0, 0, 1]]
    assert SoftEntropy(low=0.5, high=2.0)(rollout, scorer, 0)[0, [0, 2, 3]].tolist() == pytest.approx(
        [1.25, 0.5, 2.0]
    )


def test_soft_weights_go_linearly_from_the_surest_to_the_most_uncertain_token():
    weights = SoftEntropy(low=0.5, high=2.0)(batch(3, 2), Known([[1.0, 3.0, 2.0], [0.7, 0.7, 0.0]]), 0)
    assert weights[0].tolist() == pytest.approx([0.5, 2.0, 1.25])
    assert weights[1, :2].tolist() == [1.0, 1.0], "equal entropies say nothing"
    assert SoftEntropy(low=0.0, high=2.0)(batch(1), Known([[0.7]]), 0).tolist() == [[1.0]], (
        "and must not take a completion out of the loss"
    )


@pytest.mark.parametrize("share", [0.0, -0.2, 1.2])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(ValueError, match=r"weighting\.share"):
        TopEntropy(share=share, over="completion")
