"""Signed credit of segments: whose values it takes, what it adds up to, and what it climbs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from completions import completion_of
from worked import SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.algo.advantage import LeaveOneOut
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
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


class Chosen:
    """Cuts a completion where a function of its tokens says."""

    def __init__(self, cuts: Callable[[list[int]], list[int]]) -> None:
        self.cuts = cuts

    def __call__(self, batch: RolloutBatch, scorer: Scorer, most: int) -> list[list[int]]:
        return [
            self.cuts(ids[:length].tolist()) if length == 3 else []
            for ids, length in zip(batch.completion_ids, batch.present.sum(dim=1).tolist(), strict=True)
        ]


def test_its_expected_gradient_is_that_of_the_expected_reward_unless_cuts_look_ahead() -> None:
    # Three tokens of two kinds, enumerated; values of cuts are exact, the start's is anything.
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    log_p, answers = logits.log_softmax(-1), list(product((0, 1), repeat=3))
    reward = dict(zip(answers, torch.rand(8, generator=draw).tolist(), strict=True))

    def of_tokens(answer: Sequence[int]) -> torch.Tensor:
        states = [2**index - 1 + int("0" + "".join(map(str, answer[:index])), 2) for index in range(3)]
        return torch.stack([log_p[state, kind] for state, kind in zip(states, answer, strict=True)])

    def value(begun: Sequence[int]) -> float:
        of_cut = [answer for answer in answers if answer[: len(begun)] == tuple(begun)]
        chances = torch.stack([of_tokens(answer)[len(begun) :].sum().exp() for answer in of_cut]).detach()
        return float((chances * torch.tensor([reward[answer] for answer in of_cut])).sum())

    def gradient(credit: Callable[[tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
        tokens = {answer: of_tokens(answer) for answer in answers}
        terms = [of.sum().exp().detach() * (credit(answer) * of).sum() for answer, of in tokens.items()]
        return torch.autograd.grad(torch.stack(terms).sum(), logits, retain_graph=True)[0]

    def credited_with(cuts: Callable[[list[int]], list[int]], answer: tuple[int, ...]) -> torch.Tensor:
        ids = [2 + kind for kind in answer]
        batch = rows(ids, [9], rewards=[reward[answer], 0.4], groups=[0, 0])
        values = Rolls(batch, lambda begun: [value([token - 2 for token in begun])])
        return part(Chosen(cuts)).credit(batch, Table({}), values, 0)[0][0].double()

    exact = gradient(lambda answer: torch.full((3,), reward[answer], dtype=torch.float64))
    # Cuts: none, anywhere alike, and where the tokens before decide.
    for cuts in ([], [1], [2], [1, 2]):
        ours = gradient(partial(credited_with, lambda ids, cuts=cuts: cuts))
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)
    ours = gradient(partial(credited_with, lambda ids: [1] if ids[0] == 2 else [2]))
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)

    def ahead(ids: list[int]) -> list[int]:
        return [1] if ids[2] == 2 else [2]

    def excess(answer: tuple[int, ...]) -> torch.Tensor:
        # (V(e_k) - R) - (V(e_(k-1)) - V(0)): zero but at the side of the cut.
        (cut,) = ahead([2 + kind for kind in answer])
        middle = value(answer[:cut])
        return torch.tensor([middle - reward[answer]] * cut + [0.4 - middle] * (3 - cut), dtype=torch.float64)

    bias = gradient(partial(credited_with, ahead)) - exact
    torch.testing.assert_close(bias, gradient(excess), rtol=1e-5, atol=1e-6)
    assert float(bias.norm()) > 0.02 * float(exact.norm())
