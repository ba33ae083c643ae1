"""Every trained token gets the same credit."""

from dataclasses import dataclass

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.shapes import PerToken


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform:
    """Weight one everywhere: the unweighted loss, to the bit.

        w_t = 1

    Value: 1. Gradient: none. Nothing is scored.
    """

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        return torch.ones_like(batch.old_logprobs)
