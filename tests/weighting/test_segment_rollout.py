"""Signed credit of segments: whose values it takes, what it adds up to, and what it climbs."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from completions import completion_of
from worked import SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.algo.advantage import LeaveOneOut
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.segment_rollout import SegmentRollout
from mirrorpo.weighting.segments import BehindSpans, EqualLengths, Segmenter

NAN = math.nan
Value = Callable[[list[int]], list[float]]


class Rolls:
    """Gives each beginning the rewards that a function of its tokens says."""

    def __init__(self, batch: RolloutBatch, value: Value) -> None:
        self.batch, self.value = batch, value
        self.beginnings: list[tuple[int, int]] = []

    def __call__(self, beginnings: Sequence[tuple[int, int]], *, rolls: int, seed: int) -> list[list[float]]:
        self.beginnings = list(beginnings)
        return [self.value(self.batch.completion_ids[row, :end].tolist()) for row, end in beginnings]


def part(segments: Segmenter, budget: int = 16, order: str = "rolled") -> SegmentRollout:
    return SegmentRollout(segments=segments, rolls=2, budget=budget, order=order)  # type: ignore[arg-type]


def credited(weighting: SegmentRollout, batch: RolloutBatch, value: Value) -> torch.Tensor:
    return weighting.credit(batch, Table({}), Rolls(batch, value), 0)[0]


def chance(ids: list[int]) -> list[float]:
    """Rewards of two rolls, a function of the tokens."""
    return [(sum(ids) * 7 % 11) / 10, (sum(ids) * 5 % 13) / 10]


def rows(*ids: Sequence[int], rewards: Sequence[float], groups: Sequence[int]) -> RolloutBatch:
    completions = [completion_of(list(row), group=group) for row, group in zip(ids, groups, strict=True)]
    return collate(completions, list(rewards), pad_id=0, mask_truncated=False)


def test_a_segment_has_the_gain_of_its_ends_values_behind_each_span() -> None:
    batch = written(WORKED, WORKED + "0", rewards=[1.0, 0.0])
    signed, spans = part(BehindSpans(spans=SPANS)).credit(
        batch, Table({}), Rolls(batch, lambda ids: [0.5, 0.0] if len(ids) == 5 else [1.0, 0.5]), 0
    )
    # Values 0 (the other's), 0.25 behind the first calculation, 0.75 behind the second, 1 in the end.
    torch.testing.assert_close(signed[0, :5], torch.full((5,), 0.25))
    torch.testing.assert_close(signed[0, 5:13], torch.full((8,), 0.5))
    torch.testing.assert_close(signed[0, 13:22], torch.full((9,), 0.25))
    assert [(span.span.start, span.span.end, span.drop) for span in spans if span.row == 1] == [
        (0, 5, -0.75),
        (5, 13, 0.5),
        (13, 23, -0.75),
    ]
    assert not bool(signed[~batch.present].any())


def test_the_segments_of_a_completion_add_up_to_the_advantage_of_leave_one_out() -> None:
    batch = rows(
        *[range(2, 2 + n) for n in (9, 4, 7, 1, 6)], rewards=[1.0, 0.0, 0.5, NAN, 0.0], groups=[1, 1, 1, 1, 2]
    )
    weighting = part(EqualLengths(segments=3))
    signed, spans = weighting.credit(batch, Table({}), Rolls(batch, chance), 0)
    totals = [sum(span.drop for span in spans if span.row == row) for row in range(5)]
    expected = LeaveOneOut()(batch.rewards, batch.group)
    torch.testing.assert_close(torch.tensor(totals), expected, check_dtype=False)
    # Without a verdict, and without another one to compare with, there is no credit.
    assert not bool(signed[3:].any()) and {span.row for span in spans} == {0, 1, 2}
    permuted, dealt = part(EqualLengths(segments=3), order="permuted").credit(
        batch, Table({}), Rolls(batch, chance), 0
    )
    assert not torch.equal(permuted, signed)
    for row in range(3):
        drops = [sorted(span.drop for span in given if span.row == row) for given in (spans, dealt)]
        assert drops[0] == drops[1]


def test_a_budget_keeps_evenly_spread_cuts_and_a_cut_without_a_verdict_is_none() -> None:
    batch = rows(range(2, 22), range(3, 5), rewards=[1.0, 0.0], groups=[0, 0])
    rolls = Rolls(batch, chance)
    part(EqualLengths(segments=10), budget=7).credit(batch, Table({}), rolls, 0)
    assert [end for row, end in rolls.beginnings if row == 0] == [4, 10, 16]
    assert [end for row, end in rolls.beginnings if row == 1] == [1]
    signed = credited(part(EqualLengths(segments=2)), batch, lambda ids: [NAN, NAN])
    assert set(signed[0].tolist()) == {1.0}, "one segment, from the start to the end"
    half = credited(part(EqualLengths(segments=2)), batch, lambda ids: [NAN, 0.25])
    assert set(half[0].tolist()) == {0.25, 0.75}


def test_credit_is_the_same_wherever_a_completion_stands_and_however_wide_the_batch_is() -> None:
    texts, rewards = [WORKED, "1+1=2", WORKED + "0", "2*2=4 4+4=8"], [1.0, 0.0, 0.5, 0.0]
    batch = written(*texts, rewards=rewards)
    wider = written(*texts, 60 * "x", rewards=[*rewards, 1.0], groups=[0, 0, 0, 0, 1])
    for segments in (BehindSpans(spans=SPANS), EqualLengths(segments=4)):
        for order in ("rolled", "permuted"):
            weighting = part(segments, order=order)
            signed = credited(weighting, batch, chance)
            assert bool((signed < 0).any()) and bool((signed > 0).any())
            turned = torch.tensor([2, 0, 3, 1])
            assert torch.equal(credited(weighting, batch.rows(turned), chance), signed[turned])
            assert torch.equal(credited(weighting, wider, chance)[:4, : signed.shape[1]], signed)


def test_its_expected_gradient_is_that_of_the_expected_reward() -> None:
    # Two tokens of two kinds, enumerated; values of the cut between them are exact, the start's is anything.
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    reward = {(0, 0): 1.0, (0, 1): 0.25, (1, 0): 0.0, (1, 1): 0.75}
    log_p = logits.log_softmax(-1)

    def chances(first: int) -> torch.Tensor:
        return log_p[1 + first].exp()

    def value(ids: list[int]) -> list[float]:
        first = ids[0] - 2
        return [float(sum(chances(first)[second].detach() * reward[first, second] for second in (0, 1)))]

    weighting = part(EqualLengths(segments=2))
    surrogate = torch.zeros((), dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for first, second in product((0, 1), repeat=2):
        batch = rows([2 + first, 2 + second], [9], rewards=[reward[first, second], 0.4], groups=[0, 0])
        credit = credited(weighting, batch, lambda ids: value(ids) if ids[0] != 9 else [0.0])[0].double()
        assert float(credit[0]) != 0.0
        likely = log_p[0, first].exp() * chances(first)[second]
        surrogate = surrogate + likely.detach() * (
            credit[0] * log_p[0, first] + credit[1] * log_p[1 + first, second]
        )
        expected = expected + likely * reward[first, second]
    (ours,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    (exact,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-7)
