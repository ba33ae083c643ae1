from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from mirrorpo.core.batch import RolloutBatch

# Prompts of 1, 3, 2 tokens, completions of 4, 2, 1; every id names its row (tens) and its place (units).
PROMPTS = [[11], [21, 22, 23], [31, 32]]
COMPLETIONS = [[15, 16, 17, 18], [25, 26], [35]]


def batch() -> RolloutBatch:
    width, depth = 5, 4  # one column more than the longest, as after a wider window
    prompt_ids = torch.tensor([[0] * (depth - len(row)) + row for row in PROMPTS])
    completion_ids = torch.tensor([row + [0] * (width - len(row)) for row in COMPLETIONS])
    present = completion_ids > 0
    mask = present.clone()
    mask[1] = False
    return RolloutBatch(
        prompt_ids=prompt_ids,
        prompt_present=prompt_ids > 0,
        completion_ids=completion_ids,
        present=present,
        mask=mask,
        deciding=completion_ids % 10 == 6,
        group=torch.tensor([5, 5, 2]),
        rewards=torch.tensor([1.0, float("nan"), 0.0]),
        truncated=torch.tensor([True, False, False]),
        sampler_logprobs=-completion_ids.double(),
        old_logprobs=-2 * completion_ids.double(),
        anchor_logprobs=-3 * completion_ids.double(),
        anchor_hidden=completion_ids[..., None].expand(-1, -1, 2).double(),
        anchor_top_ids=completion_ids[..., None].expand(-1, -1, 3),
        anchor_top_logprobs=-completion_ids[..., None].expand(-1, -1, 3).double(),
    )


def real(rows: torch.Tensor, present: torch.Tensor) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(rows, present, strict=True)]


def test_length_is_the_number_of_completions():
    assert len(batch()) == 3


def test_rows_come_in_the_order_asked_for_with_all_their_tokens():
    picked = batch().rows(torch.tensor([2, 0]))
    assert real(picked.prompt_ids, picked.prompt_present) == [PROMPTS[2], PROMPTS[0]]
    assert real(picked.completion_ids, picked.present) == [COMPLETIONS[2], COMPLETIONS[0]]
    assert picked.group.tolist() == [2, 5]
    assert picked.rewards.tolist() == [0.0, 1.0]
    assert picked.truncated.tolist() == [False, True]


def test_rows_are_cut_to_their_own_longest_prompt_and_completion():
    picked = batch().rows(torch.tensor([2, 1]))
    assert picked.prompt_ids.tolist() == [[0, 31, 32], [21, 22, 23]]
    assert picked.completion_ids.tolist() == [[35, 0], [25, 26]]


def test_every_field_is_cut_alike():
    picked = batch().rows(torch.tensor([0, 2]))
    for field in fields(RolloutBatch)[:-1]:
        shape = getattr(picked, field.name).shape
        if field.name in ("prompt_ids", "prompt_present"):
            assert shape == (2, 2), field.name
        elif field.name in ("group", "rewards", "truncated"):
            assert shape == (2,), field.name
        else:
            assert shape[:2] == (2, 4), field.name
    assert torch.equal(picked.sampler_logprobs, -picked.completion_ids.double())
    assert torch.equal(picked.old_logprobs, -2 * picked.completion_ids.double())
    assert torch.equal(picked.anchor_logprobs, -3 * picked.completion_ids.double())
    assert torch.equal(picked.anchor_hidden[..., 1], picked.completion_ids.double())
    assert torch.equal(picked.anchor_top_ids[..., 2], picked.completion_ids)
    assert torch.equal(picked.anchor_top_logprobs[..., 0], -picked.completion_ids.double())


def test_the_mask_stays_a_subset_of_present_and_does_not_cut():
    picked = batch().rows(torch.tensor([1]))
    assert picked.completion_ids.tolist() == [[25, 26]]
    assert picked.mask.tolist() == [[False, False]]


def test_an_empty_completion_keeps_one_column():
    empty = batch().with_(
        present=torch.zeros(3, 5, dtype=torch.bool), mask=torch.zeros(3, 5, dtype=torch.bool)
    )
    assert empty.rows(torch.tensor([0, 1])).completion_ids.shape == (2, 1)


def test_taking_rows_leaves_the_batch_as_it_was():
    whole = batch()
    whole.rows(torch.tensor([1]))
    for field in fields(RolloutBatch)[:-1]:
        assert torch.equal(
            getattr(whole, field.name).nan_to_num(-1), getattr(batch(), field.name).nan_to_num(-1)
        ), field.name


def test_with_gives_a_copy_and_the_batch_cannot_be_changed():
    whole = batch()
    changed = whole.with_(rewards=torch.zeros(3))
    assert changed.rewards.tolist() == [0.0, 0.0, 0.0]
    assert whole.rewards.tolist()[0] == 1.0
    assert changed.group is whole.group
    with pytest.raises(FrozenInstanceError):
        whole.rewards = torch.zeros(3)


def test_moving_keeps_every_field():
    moved = batch().to("meta")
    assert {getattr(moved, field.name).device.type for field in fields(RolloutBatch)[:-1]} == {"meta"}


def test_a_moved_batch_knows_where_its_tokens_lie_until_they_change():
    whole = batch()
    assert whole.layout is None and whole.rows(torch.tensor([0, 2])).layout is None
    moved = whole.rows(torch.tensor([2, 0, 2])).to("cpu")
    layout = moved.layout
    assert layout is not None and moved.located() is layout
    assert torch.equal(moved.completion_ids[layout.present], moved.completion_ids[moved.present])
    assert torch.equal(moved.completion_ids[layout.trained], moved.completion_ids[moved.mask])
    assert layout.lengths == [1, 4, 1] and layout.prompt.tolist() == moved.prompt_numbers().tolist()
    assert torch.equal(moved.prompt_ids[layout.first][layout.prompt], moved.prompt_ids)
    assert moved.with_(old_logprobs=moved.old_logprobs + 1).layout is layout
    changed = moved.with_(mask=torch.zeros_like(moved.mask))
    assert changed.layout is None and len(changed.located().trained[0]) == 0
    far = whole.to("meta").layout
    assert far is not None and far.present[0].device.type == "meta" and far.lengths == [4, 2, 1]
