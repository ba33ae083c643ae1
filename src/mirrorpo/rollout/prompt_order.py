"""Which prompts a step takes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from mirrorpo.core.seeds import generator


@dataclass(frozen=True, kw_only=True)
class DataOrder:
    """An endless walk over the training prompts, epoch after epoch, each in its own order.

    A position in the walk is a plain count, so a checkpoint holds one number.

    Attributes:
        size: prompts in the training split.
        seed: the run's.
        order: shuffled anew each epoch, or sequential.
    """

    size: int
    seed: int
    order: Literal["shuffled", "sequential"]

    def take(self, position: int, count: int) -> list[int]:
        """Indices of the `count` prompts from `position` on.

        Example:
            >>> DataOrder(size=3, seed=0, order="sequential").take(2, 3)
            [2, 0, 1]
        """
        return [
            self._epoch(index // self.size)[index % self.size] for index in range(position, position + count)
        ]

    @lru_cache(maxsize=2)  # noqa: B019 - one order lives as long as its run
    def _epoch(self, epoch: int) -> list[int]:
        if self.order == "sequential":
            return list(range(self.size))
        return torch.randperm(self.size, generator=generator(self.seed, "data_order", epoch)).tolist()
