"""The keys and values of what a network has read: their name, and a layer of them that others begin with."""

from dataclasses import fields

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

# The name as argument and in the output: transformers 5.24 says `cache`, 5.19 `past_key_values`; a network
# takes an argument it does not know without a sign and reads without its past.
PAST = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


class Prefix(DynamicLayer):
    """The start of some rows of another cache's layer, put in front of what is new; nothing is kept.

    Attributes:
        start: keys and values of all the other layer's rows.
        rows: which of them; a row may stand several times.
    """

    def __init__(self, layer: CacheLayerMixin, rows: Tensor, width: int) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None
        self.start = layer.keys[:, :, :width], layer.values[:, :, :width]
        # What the rest of a cache asks a layer for.
        self.keys, self.values = self.start
        self.rows, self.is_initialized = rows, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self._joined(self.start[0], key_states), self._joined(self.start[1], value_states)

    def _joined(self, prefix: Tensor, new: Tensor) -> Tensor:
        # Under autocast transformers 5.19 keeps values in the wider dtype of the keys.
        prefix = prefix.to(new.dtype)
        if torch.is_grad_enabled():
            return torch.cat([prefix.index_select(0, self.rows), new], dim=2)
        rows, heads, length, size = new.shape
        width = prefix.shape[2]
        # Straight into its place: a copy of the rows by themselves would be as much memory again.
        out = new.new_empty(rows, heads, width + length, size)
        torch.index_select(prefix, 0, self.rows, out=out[:, :, :width])
        out[:, :, width:] = new
        return out
