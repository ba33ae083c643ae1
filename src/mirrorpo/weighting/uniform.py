"""Every trained token gets the same credit."""

from dataclasses import dataclass
from typing import Literal

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer
from mirrorpo.core.shapes import PerToken


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform:
    """Weight one everywhere: the unweighted loss, to the bit.

        w_t = 1

    Value: 1. Gradient: none. Nothing is scored.

    Attributes:
        scope: "credit" weighs the surrogate only; "loss" also the divergence, as the papers' public
            code does. With weights of one both are the same.
    """

    scope: Literal["credit", "loss"]

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        return torch.ones_like(batch.old_logprobs)
