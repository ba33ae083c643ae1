"""Drops from a table where they can be worked out by hand, and from the tiny model and a byte-level one
against plain forward passes.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from worked import RANGE, SPANS, WORKED, Table, batch

from mirrorpo.core.masked import mean_one
from mirrorpo.core.span import Span
from mirrorpo.weighting.counterfactual import Counterfactual
from mirrorpo.weighting.spans import Statements

SETTINGS: dict[str, Any] = {
    "spans": SPANS,
    "target": "answer",
    "region": "marked",
    "masking": "pad",
    "score": "sum",
    "spread": "share",
    "negative": "keep",
    "completions": "all",
    "order": "importance",
    "range": RANGE,
}


def weights(loss: dict[int, float], text: str = WORKED, seed: int = 0, **settings: Any) -> torch.Tensor:
    return Counterfactual(**SETTINGS | settings)(batch(text), Table(loss), seed)[0]


def test_a_spans_tokens_are_weighted_by_its_drop_over_its_length():
    # Six tokens behind the first one of the mark, the end among them; drops 0.6 and 4.2 over 5 and 7 tokens:
    # 0.12 and 0.6.
    found = weights({0: 0.1, 6: 0.7})
    assert found[:5].tolist() == pytest.approx([1.25 + 0.75 * 0.12 / 0.6] * 5, abs=1e-6)
    assert found[6:13].tolist() == pytest.approx([2.0] * 7)
    assert found[5] == found[13] == 1.25
    assert found[14:21].tolist() == [1.5] * 7 and found[21] == 1.0


def test_what_is_read_lies_behind_the_marks_first_token_and_reaches_to_the_end():
    scorer = Table({0: 0.1, 6: 0.7})
    Counterfactual(**SETTINGS)(batch(WORKED), scorer, 0)
    assert [(cut.start, cut.end, cut.first, cut.last) for cut in scorer.cuts] == [
        (0, 5, 15, 22),
        (6, 13, 15, 22),
    ]
    Counterfactual(**SETTINGS | {"target": "downstream"})(batch(WORKED), scorer, 0)
    assert [(cut.start, cut.end, cut.first, cut.last) for cut in scorer.cuts] == [
        (0, 5, 5, 22),
        (6, 13, 13, 22),
    ]


@pytest.mark.parametrize(
    ("score", "drop"),
    [("sum", 7 * 0.25), ("mean", 0.25), ("probability", math.exp(-7 * 0.5) - math.exp(-7 * 0.75))],
)
def test_a_drop_is_of_the_score_that_is_set(score: str, drop: float):
    _, scored = Counterfactual(**SETTINGS | {"score": score}).explain(
        batch(WORKED), Table({0: 0.25, 6: 0.7}), 0
    )
    assert scored[0].drop == pytest.approx(drop, rel=1e-6)


def test_the_whole_drop_can_go_to_every_token_of_a_span():
    assert weights({0: 0.5, 6: 0.5 + 1e-6}, spread="whole")[0] == pytest.approx(2.0, abs=1e-4)
    assert weights({0: 0.5, 6: 0.5 + 1e-6}, spread="share")[6] == pytest.approx(1.25 + 0.75 * 5 / 7, abs=1e-4)


def test_a_distractor_lies_below_tokens_of_no_span_unless_negative_drops_are_clipped():
    kept, clipped = weights({0: -0.5, 6: 0.7}), weights({0: -0.5, 6: 0.7}, negative="clip")
    assert kept[0] == 1.25 < kept[5]
    assert clipped[0] == clipped[5] == 1.25


@pytest.mark.parametrize("drop", [0.0, 0.3, -1.7])
@pytest.mark.parametrize("order", ["importance", "inverted", "permuted", "inverted_public"])
def test_equal_drops_give_uniform_weights_to_the_bit(drop: float, order: str):
    assert torch.equal(weights({0: drop, 6: drop}, order=order), torch.ones(22))


def test_a_single_span_without_a_drop_gives_uniform_weights_and_one_with_a_drop_does_not():
    assert torch.equal(weights({0: 0.0}, text="1+1=2\n#### 2"), torch.ones(13))
    assert weights({0: 0.4}, text="1+1=2\n#### 2")[0] == 2.0


@pytest.mark.parametrize("text", ["1+1=2 2*10=20", "just words\n#### 20", "#### 20", ""])
def test_without_a_mark_or_a_span_weights_are_uniform_and_nothing_is_scored(text: str):
    scorer = Table({})
    assert torch.equal(Counterfactual(**SETTINGS)(batch(text), scorer, 0), torch.ones(1, len(text) + 1))
    assert scorer.asked == 0


def test_only_completions_above_their_groups_mean_are_weighted_when_only_correct_ones_are_asked_for():
    rollout = batch(WORKED, WORKED + "0", WORKED + "1", rewards=[1.0, 0.0, 1.0], groups=[0, 0, 1])
    found = Counterfactual(**SETTINGS | {"completions": "correct"})(rollout, Table({0: 0.1, 6: 0.7}), 0)
    assert found[0, 6] == 2.0
    assert torch.equal(found[1:], torch.ones_like(found[1:])), "wrong, and right in a group where all are"


def test_spans_in_the_answer_or_behind_it_are_not_hidden_whatever_the_finder_says():
    class Everything:
        def __call__(self, token_offsets):
            return [
                Span(0, 5, "statement"),
                Span(6, 13, "statement"),
                Span(14, 18, "statement"),
                Span(20, 21, "statement"),
            ]

    scorer = Table({0: 0.1, 6: 0.7})
    found = Counterfactual(**SETTINGS | {"spans": Everything(), "order": "inverted"})(
        batch(WORKED), scorer, 0
    )
    assert [cut.start for cut in scorer.cuts] == [0, 6]
    assert found[0, 14:].tolist() == [1.5] * 7 + [1.0]


def test_a_completion_that_stands_twice_is_scored_once():
    scorer = Table({0: 0.1, 6: 0.7})
    found, scored = Counterfactual(**SETTINGS).explain(batch(WORKED, "words", WORKED), scorer, 0)
    assert len(scorer.cuts) == 2 and torch.equal(found[0], found[2])
    assert [one.row for one in scored] == [0, 0, 2, 2]


@pytest.mark.parametrize("order", ["inverted", "permuted"])
@pytest.mark.parametrize("loss", [{0: 0.1, 6: 0.7}, {0: -0.5, 6: 0.7}, {0: 3.0, 6: 0.0}])
def test_a_matched_control_has_the_very_same_weights_in_each_completion(order: str, loss: dict[int, float]):
    ours = weights(loss)
    for seed in range(5):
        control = weights(loss, order=order, seed=seed)
        assert torch.equal(control.sort().values, ours.sort().values)
        assert torch.equal(control[14:], ours[14:]), "the answer and the end keep theirs"


def test_inverted_gives_the_most_to_the_least_important():
    control = weights({0: 0.1, 6: 0.7}, order="inverted")
    # The two plain tokens are the least important and get two of the seven largest weights; the first span
    # gets the other five.
    assert control[[5, 13]].tolist() == [2.0, 2.0] and control[:5].tolist() == [2.0] * 5
    assert control[6:13].tolist() == pytest.approx([1.25 + 0.75 * 0.2] * 5 + [1.25] * 2)


def test_permuted_spans_trade_places_as_often_as_not_and_plain_tokens_keep_theirs():
    controls = [weights({0: 0.1, 6: 0.7}, order="permuted", seed=seed) for seed in range(40)]
    moved = [bool(control[0] == 2.0) for control in controls]
    assert 8 < sum(moved) < 32
    assert all(control[5] == control[13] == 1.25 for control in controls)
    assert torch.equal(weights({0: 0.1, 6: 0.7}, order="permuted", seed=3), controls[3])


def test_the_public_inverted_control_mirrors_the_map():
    control = weights({0: 0.1, 6: 0.7}, order="inverted_public")
    # Importance hat 0.5 + 0.5 x place becomes 0.5 - 0.5 x place, so the weights are 1.25 - 0.75 x place.
    assert (
        control[5] == 1.25
        and control[6].item() == pytest.approx(0.5)
        and control[0].item() == pytest.approx(1.25 - 0.75 * 0.2)
    )
    assert control[14] == 1.5 and control[21] == 1.0


def test_after_mean_one_no_arm_is_a_hidden_learning_rate():
    rollout = batch(WORKED, "words")
    for order in ("importance", "inverted", "permuted", "inverted_public"):
        found = mean_one(
            Counterfactual(**SETTINGS | {"order": order})(rollout, Table({0: 0.1, 6: 0.7}), 0), rollout.mask
        )
        torch.testing.assert_close(found.sum(dim=1), rollout.mask.sum(dim=1).float())


def test_the_frozen_settings_are_data():
    one = Counterfactual(**SETTINGS)
    assert one == replace(one) and one != replace(one, target="downstream")


PROGRAM = "x = 1\ny = x\n#### 2"


def test_a_program_is_reasoning_as_a_whole_and_each_statement_is_scored_by_what_follows_it():
    code = {
        "spans": Statements(max_spans=9, min_tokens=1, max_tokens=50),
        "target": "downstream",
        "region": "whole",
    }
    found, scored = Counterfactual(**SETTINGS | code).explain(batch(PROGRAM), Table({0: 0.1, 6: 0.7}), 0)
    assert [(one.span.start, one.span.end) for one in scored] == [(0, 5), (6, 11)]
    # Every token behind a span is read, to the end: 14 and 8 of 19.
    assert [one.drop for one in scored] == [pytest.approx(0.1 * 14), pytest.approx(0.7 * 8)]
    assert found[0, :5].tolist() == pytest.approx([1.25 + 0.75 * 0.28 / 1.12] * 5) and found[
        0, 6:11
    ].tolist() == pytest.approx([2.0] * 5)
    # What opens as a comment marks no answer, and the end of the sequence has the weight of the rest.
    assert found[0, 12:18].tolist() == [1.25] * 6 and found[0, 18] == 1.0
    # Read as worked answers are, the same text has no span before its mark but these two.
    assert (
        len(
            Counterfactual(**SETTINGS | code | {"region": "marked"}).explain(
                batch("x = 1\ny = x"), Table({}), 0
            )[1]
        )
        == 0
    )


def test_an_empty_program_has_weights_of_one():
    assert torch.equal(
        weights({}, "", target="downstream", region="whole"),
        torch.ones_like(weights({}, "", target="downstream", region="whole")),
    )


def test_a_program_has_no_answer_to_score():
    with pytest.raises(
        ValueError,
        match=r"weighting.region=whole with weighting.target=answer: .*use weighting.target=downstream",
    ):
        Counterfactual(**SETTINGS | {"region": "whole"})


def test_what_cannot_be_a_score_is_refused():
    with pytest.raises(ValueError, match="use sum or mean"):
        Counterfactual(**SETTINGS | {"score": "probability", "target": "downstream"})
    with pytest.raises(ValueError, match="not finite"):
        weights({0: float("nan"), 6: 0.7})
