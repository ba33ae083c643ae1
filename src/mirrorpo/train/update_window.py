"""Which rows of a rollout an optimiser step reads, and which of them a rank does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mirrorpo.config.settings import UpdateWindow
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.tensors import distinct_index
from mirrorpo.distributed.collectives import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateWindows:
    """The windows of a rollout's updates.

    Attributes:
        update_window: whether each update reads the whole rollout, or its share of the prompts.
        ranks: among which the rows of a window are divided.
    """

    update_window: UpdateWindow
    ranks: Ranks

    def rows(self, batch: RolloutBatch, updates: int) -> list[Int[Tensor, " N"]]:
        """The rows of each update."""
        if self.update_window == "whole":
            return [torch.arange(len(batch))] * updates
        number = distinct_index(batch.group)
        return [(number % updates == update).nonzero().flatten() for update in range(updates)]

    def local(self, batch: RolloutBatch, windows: Sequence[Tensor]) -> Bool[Tensor, " B"]:
        """The rows that this rank passes through the network, its share of each window."""
        local, lengths = torch.zeros(len(batch), dtype=torch.bool), batch.lengths()
        for rows in windows:
            local[rows] = self.ranks.share(lengths[rows])
        return local
