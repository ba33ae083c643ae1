"""Prompts read off longer ones: their columns, keys and last states."""

import torch
from transformers.cache_utils import Cache, DynamicLayer

from mirrorpo.rollout.nested_prompts import NestedPrompts


def test_a_beginning_has_the_first_keys_of_its_owner_and_the_state_at_its_end() -> None:
    prompts = [[7, 8, 9], [5], [7, 8], [7, 8, 9]]
    nesting = NestedPrompts.of(prompts)
    computed = [prompts[number] for number in nesting.computed]
    assert sorted(computed) == [[5], [7, 8, 9]]
    ids = torch.tensor([[0] * (3 - len(row)) + row for row in computed]).float()
    layer = DynamicLayer()
    # One head; a key is its token, a value ten times that.
    layer.update(ids[:, None, :, None], 10 * ids[:, None, :, None])
    last, present = nesting.read_off(Cache(layers=[layer]), ids[..., None])
    assert last.flatten().tolist() == [9, 5, 8, 9]
    assert present.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert layer.keys is not None and layer.values is not None
    kept = [row[mask.bool()].tolist() for row, mask in zip(layer.keys[:, 0, :, 0], present, strict=True)]
    assert kept == prompts and torch.equal(layer.values, 10 * layer.keys)
