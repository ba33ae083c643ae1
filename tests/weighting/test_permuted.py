"""Another weighting's weights on other tokens: the same multiset, drawn apart from it, in the same places."""

import itertools
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from completions import completion_of
from worked import RANGE, SPANS, WORKED, Table
from worked import batch as written

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_weighting
from mirrorpo.weighting.counterfactual import Counterfactual
from mirrorpo.weighting.permuted import Permuted
from mirrorpo.weighting.random import RandomTokens

SCORED = Counterfactual(
    spans=SPANS,
    target="answer",
    region="marked",
    masking="pad",
    score="sum",
    spread="share",
    negative="keep",
    completions="correct",
    order="importance",
    range=RANGE,
)


class Position:
    """Weights that say where they stood."""

    def __call__(self, batch: RolloutBatch, scorer: object, seed: int) -> torch.Tensor:
        return torch.arange(batch.present.shape[1]).expand(batch.present.shape).float()


def test_a_completion_keeps_its_multiset_of_weights_and_what_is_not_trained_stays() -> None:
    batch = written(WORKED, "1+1=2", WORKED)
    mask = batch.mask.clone()
    mask[2, 3:8] = False
    batch = batch.with_(mask=mask)
    inner = RandomTokens(low=0.5, high=2.0)
    for within in (None, SPANS):
        weights = inner(batch, Table({}), 0)
        permuted = Permuted(weighting=inner, within=within)(batch, Table({}), 0)
        assert not torch.equal(permuted, weights)
        assert torch.equal(permuted[~mask], weights[~mask])
        for row in range(len(batch)):
            kept = [values[row][mask[row]].sort().values for values in (permuted, weights)]
            assert torch.equal(*kept)


def test_within_spans_a_weight_stays_in_its_span_and_those_of_no_span_among_themselves() -> None:
    permuted = Permuted(weighting=Position(), within=SPANS)(written(WORKED), Table({}), 0)[0]
    blocks = [range(5), range(6, 13), [5, *range(13, 22)]]
    for block in blocks:
        assert sorted(permuted[torch.tensor([*block])].tolist()) == [*block]
    assert permuted.tolist() != list(range(22))


def test_every_order_is_as_likely_and_owes_nothing_to_the_weightings_own_draws() -> None:
    batch = collate([completion_of([5, 6, 7])], [1.0], pad_id=0, mask_truncated=False)
    drawn = [tuple(Permuted(weighting=Position(), within=None)(batch, Table({}), seed)[0].tolist())
             for seed in range(600)]  # fmt: skip
    for order in itertools.permutations((0.0, 1.0, 2.0)):
        assert drawn.count(order) == pytest.approx(100, abs=4 * (600 * 5 / 36) ** 0.5), order
    inner = RandomTokens(low=0.0, high=1.0)
    # Which of its weights the first token gets does not depend on which is the largest.
    largest = [
        int(inner(batch, Table({}), seed)[0].argmax()) == int(position[0])
        for seed, position in enumerate(drawn)
    ]
    assert sum(largest) == pytest.approx(200, abs=4 * (600 * 2 / 9) ** 0.5)


def test_what_the_weighting_covers_scores_and_needs_is_its_controls() -> None:
    control = Permuted(weighting=SCORED, within=None)
    batch, scorer = written(WORKED, WORKED, rewards=[1.0, 0.0]), Table({0: 1.0, 6: 3.0})
    assert control.covers(batch).tolist() == [True, False]
    assert control.model_needs() == ("pad",) and control.passes() == SCORED.passes()
    covered = batch.rows(torch.tensor([0]))
    assert control.explain(covered, scorer, 0)[1] == SCORED.explain(covered, scorer, 0)[1] != []


def test_a_control_has_its_arms_scope_and_needs_weights() -> None:
    inner = {"_target_": "mirrorpo.weighting.uniform.Uniform", "scope": "loss"}
    node = {"_target_": "mirrorpo.weighting.permuted.Permuted", "within": None, "weighting": inner}
    assert build_weighting({**node, "scope": "loss"}).covers(written(WORKED)).tolist() == [True]
    with pytest.raises(
        ValueError, match=r"^weighting\.scope=credit and weighting\.weighting\.scope=loss: .* alone$"
    ):
        build_weighting({**node, "scope": "credit"})
    with pytest.raises(ValueError, match=r"^weighting\.weighting=object gives no weights"):
        # Type checks of the tests would refuse it before.
        Permuted.__post_init__(cast("Permuted", SimpleNamespace(weighting=object())))
