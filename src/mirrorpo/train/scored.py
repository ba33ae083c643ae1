"""A rollout that the trainer has read again."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import moved
from mirrorpo.model.head import Head


@dataclass(frozen=True, kw_only=True, slots=True)
class OldStates:
    """The old policy's distributions at a batch's tokens: its head, and hidden states [B, T, D]."""

    head: Head
    hidden: Float[Tensor, "B T D"]

    def rows(self, rows: Tensor, width: int) -> "OldStates":
        """Those of some completions."""
        (there,) = moved([rows], self.hidden.device)
        return OldStates(head=self.head, hidden=self.hidden[there][:, :width])


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBatch:
    """A rollout that was read again by the trainer.

    Attributes:
        batch: with old and anchor log-probabilities, as far as somebody reads them.
        anchor_head: the output head of the anchor, whose hidden states the batch holds; None unless a
            divergence in the loss reads them.
        divergence: [B, T], of the old policy to the anchor; None unless the penalty acts through the
            advantages.
        old: of a trust region over the vocabulary, the old policy's head and the rollout's last hidden states
            under it; None without one.
    """

    batch: RolloutBatch
    anchor_head: Head | None
    divergence: PerToken | None = None
    old: OldStates | None = None
