"""Completions to tensors: padding sides, masks from lengths, what is trained."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mirrorpo.core.batch import Completion, RolloutBatch
from mirrorpo.rollout.collate import collate, pad

NAN = float("nan")
PAD = 1  # the pad id is the EOS id, as in many tokenizers


def completion(
    prompt_ids: Sequence[int], ids: Sequence[int], *, group: int = 0, truncated: bool = False, **changes: Any
) -> Completion:
    settings: dict[str, Any] = {
        "uid": "u",
        "logprobs": [-0.5 * (place + 1) for place in range(len(ids))],
        "text": "",
    }
    return Completion(
        prompt_ids=prompt_ids, ids=ids, group=group, truncated=truncated, **(settings | changes)
    )


COMPLETIONS = [
    completion([5, 6, 7], [8, PAD], group=4),
    completion([9], [PAD], group=2),
    completion([5, PAD], [8, 9, 10, 11], group=4, truncated=True),
    completion([6, 6], [7, 7, PAD], group=2),
]
REWARDS = [1.0, NAN, 0.5, 0.0]


def batch(
    completions: Sequence[Completion] = COMPLETIONS,
    rewards: Sequence[float] = REWARDS,
    *,
    mask_truncated: bool = False,
) -> RolloutBatch:
    return collate(completions, rewards, pad_id=PAD, mask_truncated=mask_truncated)


@pytest.mark.parametrize(("left", "rows"), [(True, [[0, 0, 1], [2, 3, 4]]), (False, [[1, 0, 0], [2, 3, 4]])])
def test_pad_fills_one_side(left: bool, rows: list[list[int]]) -> None:
    assert pad([[1], [2, 3, 4]], 0, left=left).tolist() == rows


def test_pad_takes_an_empty_row() -> None:
    assert pad([[], [2, 3]], 9, left=False).tolist() == [[9, 9], [2, 3]]


def test_prompts_are_padded_on_the_left() -> None:
    assert batch().prompt_ids.tolist() == [[5, 6, 7], [PAD, PAD, 9], [PAD, 5, PAD], [PAD, 6, 6]]


def test_completions_are_padded_on_the_right() -> None:
    assert batch().completion_ids.tolist() == [
        [8, PAD, PAD, PAD],
        [PAD, PAD, PAD, PAD],
        [8, 9, 10, 11],
        [7, 7, PAD, PAD],
    ]


def test_prompt_masks_come_from_lengths_though_a_prompt_holds_the_pad_id() -> None:
    assert batch().prompt_present.tolist() == [
        [True, True, True],
        [False, False, True],
        [False, True, True],
        [False, True, True],
    ]


def test_completion_masks_include_the_first_eos_and_nothing_after_it() -> None:
    assert batch().present.tolist() == [
        [True, True, False, False],
        [True, False, False, False],
        [True] * 4,
        [True, True, True, False],
    ]


def test_what_is_present_and_judged_is_trained() -> None:
    b = batch()
    assert b.mask[[0, 2, 3]].tolist() == b.present[[0, 2, 3]].tolist()


def test_a_completion_without_a_verdict_is_present_and_not_trained() -> None:
    b = batch()
    assert b.present[1].any()
    assert not b.mask[1].any()


@pytest.mark.parametrize("mask_truncated", [True, False])
def test_a_truncated_completion_is_trained_unless_masked(mask_truncated: bool) -> None:
    b = batch(mask_truncated=mask_truncated)
    assert b.present[2].all()
    assert b.mask[2].tolist() == [not mask_truncated] * 4


def test_masking_the_truncated_leaves_the_others() -> None:
    assert batch(mask_truncated=True).mask[[0, 1, 3]].tolist() == batch().mask[[0, 1, 3]].tolist()


def test_masking_everything_gives_an_empty_mask() -> None:
    b = batch([completion([5], [6, 7], truncated=True)], [1.0], mask_truncated=True)
    assert b.mask.tolist() == [[False, False]]


def test_groups_are_those_of_the_completions() -> None:
    assert batch().group.tolist() == [4, 2, 4, 2]


def test_truncation_is_that_of_the_completions() -> None:
    assert batch().truncated.tolist() == [False, False, True, False]


def test_rewards_are_kept_and_an_unknown_one_stays_unknown() -> None:
    torch.testing.assert_close(batch().rewards, torch.tensor(REWARDS), equal_nan=True)


def test_sampler_logprobs_stand_at_their_tokens() -> None:
    assert batch().sampler_logprobs.tolist() == [
        [-0.5, -1, 0, 0],
        [-0.5, 0, 0, 0],
        [-0.5, -1, -1.5, -2],
        [-0.5, -1, -1.5, 0],
    ]


@pytest.mark.parametrize("name", ["old_logprobs", "anchor_logprobs"])
def test_what_nobody_has_scored_is_nan(name: str) -> None:
    assert getattr(batch(), name).isnan().all()


def test_there_are_no_anchor_states_yet() -> None:
    assert batch().anchor_hidden.shape == (4, 4, 0)


def test_ids_are_whole_numbers_and_scores_float32() -> None:
    b = batch()
    assert {b.prompt_ids.dtype, b.completion_ids.dtype, b.group.dtype} == {torch.int64}
    assert {b.rewards.dtype, b.sampler_logprobs.dtype, b.old_logprobs.dtype} == {torch.float32}


def test_a_completion_without_tokens_is_a_row_without_presence() -> None:
    b = batch([completion([5], []), completion([5], [6, 7])], [1.0, 1.0])
    assert b.present.tolist() == [[False, False], [True, True]]


def test_ids_may_be_tuples() -> None:
    assert batch([completion((5, 6), (7,), logprobs=(-0.5,))], [1.0]).prompt_ids.tolist() == [[5, 6]]


def test_a_reward_too_few_is_refused() -> None:
    with pytest.raises(Exception, match=r"rewards|size"):
        batch(rewards=REWARDS[:3])
