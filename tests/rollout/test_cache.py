"""A cache in blocks against the one of `transformers`, to the bit."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from mirrorpo.rollout.cache import Blocks, Selection, in_blocks

HEADS, SIZE = 3, 2


def filled(kind: Any, rows: int, length: int, seed: int = 0) -> Any:
    layer = kind()
    layer.update(*states(rows, length, seed))
    return layer


def states(rows: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, rows, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))
    return keys, values


def equal(ours: Any, theirs: Any) -> bool:
    return (
        torch.equal(ours.keys, theirs.keys)
        and torch.equal(ours.values, theirs.values)
        and ours.get_seq_length() == theirs.get_seq_length()
    )


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_it_holds_what_the_growing_copy_holds(block: int) -> None:
    ours, theirs = Blocks(filled(DynamicLayer, 4, 7), 3, block), filled(DynamicLayer, 4, 7)
    theirs.batch_repeat_interleave(3)
    assert equal(ours, theirs)
    for step, length in enumerate([1, 1, 1, 4, 1, 1, 6, 1]):
        returned, expected = (layer.update(*states(12, length, step + 1)) for layer in (ours, theirs))
        assert all(torch.equal(*pair) for pair in zip(returned, expected, strict=True))
        assert equal(ours, theirs)


@pytest.mark.parametrize(
    "indices", [[0, 1, 2], [0, 5, 2, 4], [5, 4, 3, 2, 1, 0], [3, 3], [5], [1, 0, 2, 3, 4, 5]], ids=str
)
def test_it_keeps_the_rows_that_are_asked_for(indices: list[int]) -> None:
    ours, theirs = Blocks(filled(DynamicLayer, 3, 4), 2, 2), filled(DynamicLayer, 3, 4)
    theirs.batch_repeat_interleave(2)
    ours.select(Selection.of(indices, torch.device("cpu")))
    theirs.batch_select_indices(torch.tensor(indices))
    assert equal(ours, theirs)
    # And grows on from there, within the block and beyond it.
    for step in range(4):
        for layer in (ours, theirs):
            layer.update(*states(len(indices), 1, step + 1))
        assert equal(ours, theirs)


def test_it_moves_only_when_a_block_is_full() -> None:
    layer = Blocks(filled(DynamicLayer, 2, 3), 1, 4)
    places = []
    for step in range(9):
        layer.update(*states(2, 1, step))
        places.append(layer.keys.data_ptr())
    assert [place == before for before, place in pairwise(places)] == [
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
    ]


def test_the_layer_it_starts_from_stays_as_it_is() -> None:
    start, untouched = filled(DynamicLayer, 2, 3), filled(DynamicLayer, 2, 3)
    ours = Blocks(start, 2, 4)
    ours.update(*states(4, 1, 1))
    ours.select(Selection.of([3, 0], torch.device("cpu")))
    assert equal(start, untouched)


def test_a_layer_that_slides_has_its_rows_repeated_and_slides_on() -> None:
    def sliding() -> Any:
        return DynamicSlidingWindowLayer(sliding_window=3)

    cache = in_blocks(Cache(layers=[filled(DynamicLayer, 2, 5), filled(sliding, 2, 5)]), 2, 2, 4)
    theirs = filled(sliding, 2, 5)
    theirs.batch_repeat_interleave(2)
    assert [type(layer) for layer in cache.layers] == [Blocks, DynamicSlidingWindowLayer]
    assert equal(cache.layers[1], theirs)
