"""Which prompts a step takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from mirrorpo.core.seeds import generator

# What a prompt that is always or never answered right adds to the chance of being drawn; SPO's.
FLOOR = 0.05


@dataclass(frozen=True, kw_only=True)
class DataOrder:
    """An endless walk over the training prompts, epoch after epoch, each in its own order.

    A position in the walk is a plain count, so a checkpoint holds one number. `informative` has no epochs:
    the prompts of a position are drawn without replacement, each with probability proportional to

        sqrt(v (1 - v)) + 0.05

    v its tracked value, cut to [0, 1]: the standard deviation of a reward of 0 or 1, so that a step goes to
    prompts that are answered right now and then.

    Attributes:
        size: prompts in the training split.
        seed: the run's.
        order: shuffled anew each epoch, sequential, or informative.
    """

    size: int
    seed: int
    order: Literal["shuffled", "sequential", "informative"]

    def take(self, position: int, count: int, values: Sequence[float] | None = None) -> list[int]:
        """Indices of the `count` prompts from `position` on; `values` are those of all prompts, if tracked.

        Raises:
            ValueError: if the order is informative and no values are given.

        Example:
            >>> DataOrder(size=3, seed=0, order="sequential").take(2, 3)
            [2, 0, 1]
        """
        if self.order == "informative":
            if values is None:
                raise ValueError("data_order=informative: no prompt's value is tracked; use algo=spo")
            return self._informative(position, count, values)
        return [
            self._epoch(index // self.size)[index % self.size] for index in range(position, position + count)
        ]

    @lru_cache(maxsize=2)  # noqa: B019 - one order lives as long as its run
    def _epoch(self, epoch: int) -> list[int]:
        if self.order == "sequential":
            return list(range(self.size))
        return torch.randperm(self.size, generator=generator(self.seed, "data_order", epoch)).tolist()

    def _informative(self, position: int, count: int, values: Sequence[float]) -> list[int]:
        value = torch.tensor(values, dtype=torch.float64).clamp(0, 1)
        chances = (value * (1 - value)).sqrt() + FLOOR
        passes, rest = divmod(count, self.size)
        draw = generator(self.seed, "data_order", "informative", position)
        drawn = torch.multinomial(chances, rest, generator=draw).tolist() if rest else []
        return [*drawn, *list(range(self.size)) * passes]
