"""A key-value cache that grows in blocks, where the one of `transformers` copies itself at every token."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@runtime_checkable
class Repeats(Protocol):
    """A layer of a cache whose rows can be repeated."""

    def batch_repeat_interleave(self, repeats: int) -> None: ...


class Blocks(DynamicLayer):
    """A layer's keys and values in the front of tensors with places to spare.

    It starts as a filled layer with each of its rows `repeats` times.

    Attributes:
        block: places that are added when there are none left.
    """

    def __init__(self, layer: DynamicLayer, repeats: int, block: int) -> None:
        super().__init__()
        self.block, self.is_initialized = block, True
        assert layer.keys is not None and layer.values is not None
        self._stores = [
            self._store(filled, filled.shape[0] * repeats, block) for filled in (layer.keys, layer.values)
        ]
        for store, filled in zip(self._stores, (layer.keys, layer.values), strict=True):
            store.unflatten(0, (-1, repeats))[:, :, :, : filled.shape[2]] = filled[:, None]
        self._views = self._view(len(self._stores[0]), layer.keys.shape[2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The keys and values with the new ones behind them, [B, heads, length, size]."""
        rows, _, length, _ = self._views[0].shape
        longer = length + key_states.shape[2]
        if longer > self._stores[0].shape[2]:
            grown = [
                self._store(filled, rows, key_states.shape[2] - 1 + self.block) for filled in self._views
            ]
            for store, filled in zip(grown, self._views, strict=True):
                store[:, :, :length] = filled
            self._stores = grown
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[:rows, :, length:longer] = new
        self._views = self._view(rows, longer)
        return self._views

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows at `indices`; those that keep their place are not moved."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(1)
        length = self._views[0].shape[2]
        for store in self._stores:
            store[moved, :, :length] = store[indices[moved], :, :length]
        self._views = self._view(len(indices), length)

    @staticmethod
    def _store(filled: Tensor, rows: int, spare: int) -> Tensor:
        return filled.new_empty(rows, filled.shape[1], filled.shape[2] + spare, filled.shape[3])

    def _view(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (store[:rows, :, :length] for store in self._stores)
        # What the rest of a cache reads.
        self.keys, self.values = keys, values
        return keys, values


def in_blocks(cache: Cache, repeats: int, block: int) -> Cache:
    """A filled cache with each of its rows `repeats` times, its plain layers growing in blocks from here on.

    Layers of another kind, that slide or keep a state, only have their rows repeated.
    """
    layers = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layers.append(Blocks(layer, repeats, block))
        else:
            assert isinstance(layer, Repeats)
            layer.batch_repeat_interleave(repeats)
            layers.append(layer)
    return Cache(layers=layers)
