"""Where completions are cut: behind spans, evenly, before the most uncertain tokens."""

import pytest
import torch
from completions import completion_of
from worked import SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.segments import AtForks, BehindSpans, EqualLengths


def rows(*lengths: int) -> RolloutBatch:
    completions = [completion_of(list(range(2, 2 + length))) for length in lengths]
    return collate(completions, [1.0] * len(lengths), pad_id=0, mask_truncated=False)


def test_a_cut_stands_behind_each_span() -> None:
    assert BehindSpans(spans=SPANS)(written(WORKED, "none"), Table({})) == [[5, 13], []]


def test_segments_of_equal_length_differ_by_a_token_at_most_and_none_is_empty() -> None:
    cuts = EqualLengths(segments=4)(rows(20, 7, 2, 1), Table({}))
    assert cuts == [[5, 10, 15], [1, 3, 5], [1], []]
    with pytest.raises(ValueError, match=r"^weighting\.segments\.segments=1: give at least 2"):
        EqualLengths(segments=1)


def test_forks_are_cut_before_the_most_uncertain_tokens() -> None:
    class Uncertain(Table):
        def entropies(self, batch: RolloutBatch) -> torch.Tensor:
            # The first token, which is no cut, is the most uncertain; pads would be too.
            return torch.tensor([[9.0, 1.0, 5.0, 2.0, 5.0, 0.0], [1.0, 1.0, 9.0, 9.0, 9.0, 9.0]])

    batch = rows(6, 2)
    assert AtForks(forks=2)(batch, Uncertain({})) == [[2, 4], [1]]
    assert AtForks(forks=3)(batch, Uncertain({})) == [[2, 3, 4], [1]]
    with pytest.raises(ValueError, match=r"^weighting\.segments\.forks=0: give at least 1"):
        AtForks(forks=0)
