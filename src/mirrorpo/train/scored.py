"""A rollout that the trainer has read again."""

from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mirrorpo.algo.trust_region import bins
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import ReadsOldTop, TrustRegion
from mirrorpo.core.shapes import PerPosition, PerToken
from mirrorpo.core.tensors import moved
from mirrorpo.core.top import TopTokens
from mirrorpo.model.anchored import VocabularyReader
from mirrorpo.model.head import Head, read_positions
from mirrorpo.model.mixed_head import MixedHead


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveStates:
    """The policy at N real tokens of a micro-batch, without gradient.

    Attributes:
        head: of the policy.
        hidden: its last hidden states.
        tokens: which tokens were drawn.
        logprobs: of them.
        old_logprobs: of them under the old policy.
        logit_chunk: positions whose logits exist at once.
    """

    head: Head
    hidden: Float[Tensor, "N D"]
    tokens: Int[Tensor, " N"]
    logprobs: PerPosition
    old_logprobs: PerPosition
    logit_chunk: int


@runtime_checkable
class OldPolicy(Protocol):
    """What a trust region keeps of the old policy at a batch's tokens, and how it is compared.

    `distance` is D(pi_old, pi) at the real tokens of a micro-batch; `flops` those of so many positions.
    """

    def rows(self, rows: Tensor, width: int) -> "OldPolicy": ...

    def distance(self, region: TrustRegion, live: LiveStates, present: tuple[Tensor, Tensor]) -> Tensor: ...

    def flops(self, positions: int) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OldStates:
    """The old policy's distributions at a batch's tokens: its head, and hidden states [B, T, D]."""

    head: Head
    hidden: Float[Tensor, "B T D"]

    def rows(self, rows: Tensor, width: int) -> "OldStates":
        """Those of some completions."""
        (there,) = moved([rows], self.hidden.device)
        return OldStates(head=self.head, hidden=self.hidden[there][:, :width])

    def distance(self, region: TrustRegion, live: LiveStates, present: tuple[Tensor, Tensor]) -> Tensor:
        """Over the vocabulary, whose logits are made of both policies."""
        reader = VocabularyReader(
            reader=lambda log_p, log_q: region.distance(log_q, log_p),
            gradient=None,
            head=self.head.prepared(),
            hidden=self.hidden[present],
        )
        read = read_positions(
            live.head, live.hidden, live.tokens, logit_chunk=live.logit_chunk, reader=reader
        )
        return read.reader_output

    def flops(self, positions: int) -> int:
        """Of the logits of both."""
        return 2 * 2 * self.head.entries * positions


@dataclass(frozen=True, kw_only=True, slots=True)
class OldTop:
    """The old policy's likeliest tokens at a batch's tokens, [B, T, K], and their log-probabilities.

    Attributes:
        ids: of the tokens, ascending.
        logprobs: of them.
        width: of a hidden state.
        vocabulary: tokens in all.
    """

    ids: Int[Tensor, "B T K"]
    logprobs: Float[Tensor, "B T K"]
    width: int
    vocabulary: int

    def rows(self, rows: Tensor, width: int) -> "OldTop":
        """Those of some completions."""
        (there,) = moved([rows], self.ids.device)
        return replace(self, ids=self.ids[there][:, :width], logprobs=self.logprobs[there][:, :width])

    def distance(self, region: TrustRegion, live: LiveStates, present: tuple[Tensor, Tensor]) -> Tensor:
        """Over these tokens, the drawn one and all others together; no product over the vocabulary."""
        ids, drawn = self.ids[present], live.tokens[:, None]
        known = TopTokens(drawn, live.logprobs[:, None])
        old, policy = self.logprobs[present], live.head.prepared().logprobs_at(live.hidden, ids, known)
        if ids.shape[1] < self.vocabulary:
            covered = (ids == drawn).any(dim=1)
            old = bins(old, live.old_logprobs.to(old.dtype), covered)
            policy = bins(policy, live.logprobs.to(policy.dtype), covered)
        return cast(ReadsOldTop, region).between(old, policy)

    def flops(self, positions: int) -> int:
        """Of the logits of these tokens and the drawn one."""
        return 2 * (self.ids.shape[-1] + 1) * self.width * positions


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBatch:
    """A rollout that was read again by the trainer.

    Attributes:
        batch: with old and anchor log-probabilities, as far as somebody reads them.
        anchor_head: the output head of the anchor, whose hidden states the batch holds; None unless a
            divergence in the loss reads them.
        divergence: [B, T], of the old policy to the anchor; None unless the penalty acts through the
            advantages.
        old: what a trust region over more than the drawn token keeps of the old policy; None without one.
    """

    batch: RolloutBatch
    anchor_head: Head | MixedHead | None
    divergence: PerToken | None = None
    old: OldPolicy | None = None
