"""Prompts that are beginnings of each other: the longest is computed, the others' keys are its first ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from mirrorpo.core.nested import longest_of
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.rollout.weights import network_config


@dataclass(frozen=True, slots=True)
class NestedPrompts:
    """Which prompts have to be computed.

    Attributes:
        lengths: of the prompts, in tokens.
        computed: numbers of the prompts that are computed: those that begin no other, each once.
        owner: for each prompt the position in `computed` of one that it begins, or is.
    """

    lengths: Sequence[int]
    computed: Sequence[int]
    owner: Sequence[int]

    @classmethod
    def of(cls, prompt_ids: Sequence[Sequence[int]]) -> "NestedPrompts":
        """Of prompts in any order.

        Example:
            >>> NestedPrompts.of([[1], [1, 2, 3], [1, 2], [4]])
            NestedPrompts(lengths=[1, 3, 2, 1], computed=[1, 3], owner=[0, 0, 0, 1])
        """
        longest = longest_of(prompt_ids)
        computed = sorted({*longest})
        position = {number: index for index, number in enumerate(computed)}
        return cls([len(ids) for ids in prompt_ids], computed, [position[number] for number in longest])

    def of_computed(self, prompt_ids: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """The prompts that are computed."""
        return [prompt_ids[number] for number in self.computed]

    def read_off(self, cache: Cache, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All prompts, off a pass of the computed ones, padded on the left; its cache becomes theirs.

        Returns:
            The state at each prompt's last token, [P, D], and which columns hold its tokens, [P, S].
        """
        device, width = hidden.device, hidden.shape[1]
        lengths, owner = (torch.tensor(values, device=device) for values in (self.lengths, self.owner))
        # Tokens of the owner behind the prompt.
        behind = lengths[torch.tensor(self.computed, device=device)][owner] - lengths
        columns = torch.arange(width, device=device)[None]
        source = (columns - behind[:, None]).clamp(min=0)
        for layer in cache.layers:
            assert type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None
            layer.keys, layer.values = (
                held.transpose(1, 2)[owner[:, None], source].transpose(1, 2)
                for held in (layer.keys, layer.values)
            )
        return hidden[owner, width - 1 - behind], (columns >= width - lengths[:, None]).long()


def keeps_every_key(model: GenerativeModel) -> bool:
    """Whether the model's cache has every key and value by its column, so that a stretch is a beginning's."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=network_config(model)).layers)
