"""A weighting that scores no spans, in the form that the trainer uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Scorer, SpanWeighting, Weighting
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.span import ScoredSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscored:
    """Any weighting as a `SpanWeighting`: it weighs every completion, and there are no spans behind it.

    Attributes:
        weighting: the weights.

    Raises:
        ValueError: when called, if what comes back are no weights [B, T].
    """

    weighting: Weighting

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = self.weighting(batch, scorer, seed)
        if not isinstance(weights, Tensor) or weights.shape != batch.present.shape:
            shape = f" of shape {list(weights.shape)}" if isinstance(weights, Tensor) else ""
            raise ValueError(
                f"weighting: {type(self.weighting).__name__} returned a {type(weights).__name__}{shape}; give a "
                f"tensor of weights for {list(batch.present.shape)} completions and tokens"
            )
        return weights

    def covers(self, batch: RolloutBatch) -> Bool[Tensor, " B"]:
        """Every completion."""
        return torch.ones(len(batch), dtype=torch.bool)

    def explain(
        self, batch: RolloutBatch, scorer: Scorer, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """The weights, without a span."""
        return self(batch, scorer, seed), []


def span_weighting(weighting: Weighting) -> SpanWeighting:
    """A weighting as the trainer uses it."""
    return weighting if isinstance(weighting, SpanWeighting) else Unscored(weighting=weighting)
