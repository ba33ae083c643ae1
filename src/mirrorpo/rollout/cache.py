"""A key-value cache that grows in blocks, where the one of `transformers` copies itself at every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from mirrorpo.core.tensors import moved


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which rows stay, and where each of them stands from then on.

    Attributes:
        order: [N], the row that comes to each position.
        into: [M], positions to which another row comes than the one that stood there.
        source: [M], that other row.
    """

    order: Tensor
    into: Tensor
    source: Tensor

    @classmethod
    def of(cls, order: Sequence[int], device: torch.device) -> "Selection":
        """Of rows that this process knows, so that nothing has to be read from the device."""
        into = [position for position, row in enumerate(order) if position != row]
        lists = (order, into, [order[position] for position in into])
        there = moved([torch.tensor(rows, dtype=torch.long) for rows in lists], device)
        return cls(order=there[0], into=there[1], source=there[2])


class Blocks(DynamicLayer):
    """A layer's keys and values in the front of tensors with places to spare.

    It starts as a filled layer with each of its rows `repeats` times.

    Attributes:
        block: places that are added when there are none left.
    """

    def __init__(
        self, layer: DynamicLayer, repeats: int, block: int, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.block, self.is_initialized = block, True
        assert layer.keys is not None and layer.values is not None
        self._stores = [
            self._store(filled, filled.shape[0] * repeats, block, dtype)
            for filled in (layer.keys, layer.values)
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

    def select(self, rows: Selection) -> None:
        """Only these rows; those that keep their position are not moved."""
        length = self._views[0].shape[2]
        for store in self._stores:
            store[rows.into, :, :length] = store[rows.source, :, :length]
        self._views = self._view(len(rows.order), length)

    @staticmethod
    def _store(filled: Tensor, rows: int, spare: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = rows, filled.shape[1], filled.shape[2] + spare, filled.shape[3]
        return filled.new_empty(shape, dtype=dtype)

    def _view(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (store[:rows, :, :length] for store in self._stores)
        # What the rest of a cache reads.
        self.keys, self.values = keys, values
        return keys, values


class Rows(Cache):
    """Layers of any kind whose rows can be picked.

    Attributes:
        dtype: in which new keys and values come to the layers that slide; None is that of the network's own.
    """

    dtype: torch.dtype | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The layer's keys and values with the new ones behind them."""
        if self.dtype is not None and type(self.layers[layer_idx]) is DynamicSlidingWindowLayer:
            # It joins them to those it has, to which wider ones would give their own dtype.
            key_states, value_states = key_states.to(self.dtype), value_states.to(self.dtype)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def select(self, rows: Selection) -> None:
        """Only these rows."""
        for layer in self.layers:
            if isinstance(layer, Blocks):
                layer.select(rows)
            else:
                # What every layer has; those with a state (Mamba, linear attention) have no other.
                layer.reorder_cache(cast(torch.LongTensor, rows.order))


def in_blocks(cache: Cache, rows: int, repeats: int, block: int, dtype: torch.dtype | None = None) -> Rows:
    """A filled cache with each of its rows `repeats` times, its plain layers growing in blocks from here on.

    Layers of another kind, that slide or keep a state, only have their rows repeated.

    Args:
        cache: with so many rows.
        rows: which a state alone does not tell.
        repeats: of each row.
        block: places by which a plain layer grows.
        dtype: in which attention reads keys and values, and in which they are kept; None leaves them as they
            are. States keep their own.
    """
    # On the CPU: a layer moves it to where its tensors are, if it has any.
    repeated = torch.arange(rows).repeat_interleave(repeats)
    layers = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layers.append(Blocks(layer, repeats, block, dtype))
        else:
            layer.reorder_cache(cast(torch.LongTensor, repeated))
            # Layers that share another's keys have none.
            if (
                type(layer) is DynamicSlidingWindowLayer
                and layer.keys is not None
                and layer.values is not None
            ):
                layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)
            layers.append(layer)
    filled = Rows(layers=layers)
    filled.dtype = dtype
    return filled
