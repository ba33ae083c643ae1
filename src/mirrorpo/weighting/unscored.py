"""A weighting that scores no spans, in the form that the trainer uses."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import (
    Assembly,
    DeclaresInert,
    DeclaresModelNeeds,
    Inert,
    ModelNeed,
    Scorer,
    SpanWeighting,
    StatesNotes,
    StatesPasses,
    StatesRequirements,
    Weighting,
)
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.span import ScoredSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscored:
    """A weighting without spans as a `SpanWeighting`, which weighs every completion.

    Attributes:
        weighting: the weights.

    Raises:
        ValueError: when called, if what comes back are no weights [B, T].
    """

    weighting: Weighting

    def model_needs(self) -> Collection[ModelNeed]:
        """The weighting's."""
        return self.weighting.model_needs() if isinstance(self.weighting, DeclaresModelNeeds) else ()

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The weighting's."""
        inner = self.weighting
        return inner.requirements(group, assembly) if isinstance(inner, StatesRequirements) else ()

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The weighting's."""
        return self.weighting.notes(group, assembly) if isinstance(self.weighting, StatesNotes) else ()

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """The weighting's."""
        return self.weighting.inert(group, assembly) if isinstance(self.weighting, DeclaresInert) else ()

    def passes(self) -> Sequence[str]:
        """The weighting's."""
        return self.weighting.passes() if isinstance(self.weighting, StatesPasses) else ()

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = self.weighting(batch, scorer, seed)
        _check_weights(weights, batch.present.shape, type(self.weighting).__name__)
        return weights

    def covers(self, batch: RolloutBatch) -> Bool[Tensor, " B"]:
        """Every completion."""
        return torch.ones(len(batch), dtype=torch.bool)

    def explain(
        self, batch: RolloutBatch, scorer: Scorer, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """The weights, without a span."""
        return self(batch, scorer, seed), []


def _check_weights(weights: object, shape: torch.Size, name: str) -> None:
    # A class of another package may return anything.
    if isinstance(weights, Tensor) and weights.shape == shape:
        return
    of_shape = f" of shape {list(weights.shape)}" if isinstance(weights, Tensor) else ""
    raise ValueError(
        f"weighting: {name} returned a {type(weights).__name__}{of_shape}; give a tensor of weights for "
        f"{list(shape)} completions and tokens"
    )


def span_weighting(weighting: Weighting) -> SpanWeighting:
    """A weighting as the trainer uses it."""
    return weighting if isinstance(weighting, SpanWeighting) else Unscored(weighting=weighting)
