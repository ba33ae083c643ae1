"""Where completions are cut: behind spans, evenly, before the most uncertain tokens, around drops."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from completions import completion_of
from worked import RANGE, SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.counterfactual import Counterfactual
from mirrorpo.weighting.segments import AroundDrops, AtForks, BehindSpans, EqualLengths

PRIOR = Counterfactual(
    spans=SPANS,
    target="answer",
    region="marked",
    masking="direct",
    score="sum",
    spread="share",
    negative="keep",
    completions="all",
    order="importance",
    range=RANGE,
)


def rows(*lengths: int) -> RolloutBatch:
    completions = [completion_of(list(range(2, 2 + length))) for length in lengths]
    return collate(completions, [1.0] * len(lengths), pad_id=0, mask_truncated=False)


def test_a_cut_stands_behind_each_span() -> None:
    assert BehindSpans(spans=SPANS)(written(WORKED, "none"), Table({}), 9) == [[5, 13], []]


def test_segments_of_equal_length_differ_by_a_token_at_most_and_none_is_empty() -> None:
    cuts = EqualLengths(segments=4)(rows(20, 7, 2, 1), Table({}), 9)
    assert cuts == [[5, 10, 15], [1, 3, 5], [1], []]
    with pytest.raises(ValueError, match=r"^weighting\.segments\.segments=1: give at least 2"):
        EqualLengths(segments=1)


def test_forks_are_cut_before_the_most_uncertain_tokens() -> None:
    class Uncertain(Table):
        def entropies(self, batch: RolloutBatch) -> torch.Tensor:
            # The first token, which is no cut, is the most uncertain; pads would be too.
            return torch.tensor([[9.0, 1.0, 5.0, 2.0, 5.0, 0.0], [1.0, 1.0, 9.0, 9.0, 9.0, 9.0]])

    batch = rows(6, 2)
    assert AtForks(forks=2)(batch, Uncertain({}), 9) == [[2, 4], [1]]
    assert AtForks(forks=3)(batch, Uncertain({}), 9) == [[2, 3, 4], [1]]
    with pytest.raises(ValueError, match=r"^weighting\.segments\.forks=0: give at least 1"):
        AtForks(forks=0)


def test_the_cuts_of_the_largest_drops_are_kept_and_drops_are_read_only_where_they_decide() -> None:
    # Spans end at 5, 13, 19 and 25, and begin at 0, 6, 14 and 20; without a mark nothing is scored.
    four = "1+1=2 2*10=20 3+3=6 4+4=8"
    batch = written(four + "\n#### 20", WORKED, four, "none")
    scorer = Table({0: 0.1, 6: -0.3, 14: 0.7, 20: 0.2})
    around = AroundDrops(prior=PRIOR)
    expected = {
        1: [[19], [5], [19], []],
        2: [[13, 19], [5, 13], [13, 25], []],
        3: [[13, 19, 25], [5, 13], [5, 19, 25], []],
    }
    for most, cuts in expected.items():
        assert around(batch, scorer, most) == cuts, most
        assert {cut.row for cut in scorer.cuts} == ({0, 1} if most == 1 else {0})
    scorer.asked = 0
    assert around(batch, scorer, 4) == [[5, 13, 19, 25], [5, 13], [5, 13, 19, 25], []]
    assert scorer.asked == 0
    turned = torch.tensor([3, 2, 1, 0])
    assert around(batch.rows(turned), scorer, 2) == expected[2][::-1]
    with pytest.raises(
        ValueError, match=r"^weighting\.segments\.prior=object hides no spans .*; use counter"
    ):
        # Type checks of the tests would refuse it before.
        AroundDrops.__post_init__(cast("AroundDrops", SimpleNamespace(prior=object())))
