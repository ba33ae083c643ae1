"""The mean over completions that are enumerated, in the place of an aggregation."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Expectation:
    """Token losses summed over each completion, and averaged by what its probability was."""

    chance: Tensor

    def denominator(self, mask: Tensor) -> Tensor:
        return torch.ones(())

    def __call__(self, per_token: Tensor, mask: Tensor, denominator: Tensor | None = None) -> Tensor:
        return (self.chance * per_token.sum(dim=1)).sum()
