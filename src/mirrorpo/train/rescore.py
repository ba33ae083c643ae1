"""The passes between a rollout and its updates: old and anchor log-probabilities, and what else is read."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.algo.trust_region import top_of
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import TrustRegion
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import moved
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.model.cost import reading
from mirrorpo.model.head import Head
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.mixed_head import MixedHead
from mirrorpo.model.modes import evaluating
from mirrorpo.train.anchor_parts import AnchorPart, mixed_head, of_mixture
from mirrorpo.train.anchoring import divergence_at_tokens
from mirrorpo.train.budget import PassMeter
from mirrorpo.train.live_policy import LivePolicy
from mirrorpo.train.old_policy import ForwardSettings, TokenScores
from mirrorpo.train.scored import OldPolicy, OldStates, OldTop, ScoredBatch
from mirrorpo.train.update_window import UpdateWindows


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Which passes without gradient stand between a rollout and its first update.

    Attributes:
        old: the old policy reads the rollout.
        old_states: and its hidden states are kept for a trust region.
        old_top: or so many of its likeliest tokens.
        reference: the reference reads it.
        both: the old policy reads it beside the anchor, for a divergence over several tokens that
            acts through the advantages.
    """

    old: bool
    old_states: bool
    old_top: int
    reference: bool
    both: bool

    @classmethod
    def of(
        cls, penalty: Penalty, trust_region: TrustRegion, *, on_policy: bool, updates_read_old: bool
    ) -> "Passes":
        """Those of a run's parts; an update's advantages may read the old policy too."""
        # The pass that reads the old policy beside the anchor gives its log-probabilities too.
        both = penalty.in_credit and penalty.reads != "sampled"
        needed = not on_policy or penalty.in_credit or updates_read_old
        # On-policy every distance is zero.
        old_states = trust_region.reads == "vocabulary" and not on_policy
        old_top = 0 if on_policy else top_of(trust_region)
        return cls(
            old=penalty.reads_old or old_states or old_top > 0 or (needed and not both),
            old_states=old_states,
            old_top=old_top,
            reference=penalty.reads_reference,
            both=both,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescore:
    """Reads a rollout again under the old policy and the anchor.

    Attributes:
        live: the policy, which is the old one until the first update.
        references: the models of the anchor, in the order of its parts; none when nothing reads them.
        windows: of the updates, by which the ranks divide the rows.
        forward: how a batch goes through a network without gradient.
        updates_read_old: whether an update's advantages read the old policy's log-probabilities.
        ranks: among which the rows of a pass are divided.
        meter: counts the passes.
    """

    live: LivePolicy
    references: Sequence[LanguageModel]
    windows: UpdateWindows
    forward: ForwardSettings
    updates_read_old: bool
    ranks: Ranks
    meter: PassMeter

    @property
    def passes(self) -> Passes:
        """The passes that it makes."""
        return Passes.of(
            self.live.penalty,
            self.live.trust_region,
            on_policy=self.live.settings.on_policy,
            updates_read_old=self.updates_read_old,
        )

    def __call__(self, batch: RolloutBatch) -> ScoredBatch:
        """A rollout with old and anchor log-probabilities, as far as somebody reads them.

        On-policy the old log-probabilities are left to the update's own forward, unless the penalty acts
        through the advantages.
        """
        penalty = self.live.penalty
        scored, local = self._scored(batch)
        if not penalty.in_credit:
            return scored
        divergence, batch = self._old_divergence(scored, local)
        if penalty.in_loss:
            return replace(scored, batch=batch, divergence=divergence)
        # The update does not read the anchor any more.
        return replace(scored, batch=batch.without_anchor(), anchor_head=None, divergence=divergence)

    def _scored(self, batch: RolloutBatch) -> tuple[ScoredBatch, Bool[Tensor, " B"]]:
        # The rollout, and the rows that this rank passed through the network.
        penalty, policy = self.live.penalty, self.live.policy
        passes, from_old = self.passes, penalty.reads_old
        # Hidden states stay with the rank that will learn from them.
        local = self.windows.local(batch, self.windows.rows(batch, self.live.settings.updates_per_rollout))
        old_policy: OldPolicy | None = None
        of_old: list[AnchorPart] = []
        if passes.old:
            kept = passes.old_states or (penalty.scores_hidden and from_old)
            top = penalty.part_top if from_old else 0
            old = self.forward.score(
                policy, batch, local, keep_hidden=kept, keep_top=max(top, passes.old_top)
            )
            batch = batch.with_(old_logprobs=old.logprobs)
            old_policy = self._of_old_policy(old)
            old = old.with_top(top)
            if from_old:
                head = self._frozen_head(policy) if penalty.scores_hidden else None
                of_old.append(AnchorPart(scores=old, head=head))
        # The old policy that is the anchor takes the place of a reference.
        wanted = self.references if penalty.mixes or not from_old else ()
        of_references = [self._of_reference(reference, batch, local) for reference in wanted]
        parts = of_old + of_references if penalty.anchor == "old" else of_references + of_old
        fields, anchor_head = self._of_anchor(parts, batch, local)
        return ScoredBatch(batch=batch.with_(**fields), anchor_head=anchor_head, old=old_policy), local

    def _of_old_policy(self, old: TokenScores) -> OldPolicy | None:
        # What the trust region keeps of it.
        policy, passes = self.live.policy, self.passes
        if passes.old_states:
            return OldStates(head=self._frozen_head(policy), hidden=old.hidden)
        if not passes.old_top:
            return None
        kept = old.with_top(passes.old_top)
        projection = policy.head(self.live.settings.temperature).projection
        return OldTop(
            ids=kept.top_ids,
            logprobs=kept.top_logprobs,
            width=projection.in_features,
            vocabulary=projection.out_features,
        )

    def _of_reference(
        self, reference: LanguageModel, batch: RolloutBatch, local: Bool[Tensor, " B"]
    ) -> AnchorPart:
        hidden, top = self.live.penalty.scores_hidden, self.live.penalty.part_top
        with reference.shards.gathered():
            scores = self.forward.score(reference, batch, local, keep_hidden=hidden, keep_top=top)
            return AnchorPart(scores=scores, head=self._reference_head(reference) if hidden else None)

    def _of_anchor(
        self, parts: Sequence[AnchorPart], batch: RolloutBatch, local: Bool[Tensor, " B"]
    ) -> tuple[dict[str, Tensor], Head | MixedHead | None]:
        # What the batch holds of the anchor, and the head that reads it in an update.
        penalty = self.live.penalty
        if len(parts) < 2:
            return (parts[0].scores.of_anchor(), parts[0].head) if parts else ({}, None)
        head = mixed_head(parts, penalty.share)
        fields = of_mixture(parts, batch, local, penalty, self.live.settings.logit_chunk)
        if head is not None and not penalty.reads_hidden:
            self.meter.add_head(head, reading(batch, torch.arange(len(batch))).read)
        return fields, head if penalty.reads_hidden else None

    def _old_divergence(
        self, scored: ScoredBatch, local: Bool[Tensor, " B"]
    ) -> tuple[PerToken, RolloutBatch]:
        # Of each trained token, and the rollout with old log-probabilities.
        batch, penalty, policy = scored.batch, self.live.penalty, self.live.policy
        if not self.passes.both:
            old = masked(batch.old_logprobs, batch.mask)
            anchor = masked(batch.anchor_logprobs, batch.mask)
            return masked(penalty(old, anchor, old), batch.mask), batch
        tokens = reading(batch, torch.arange(len(batch)))
        self.meter.add(policy, tokens)
        if scored.anchor_head is not None:
            self.meter.add_head(scored.anchor_head, tokens.read)
        divergence, logprobs = torch.zeros(batch.mask.shape), torch.zeros(batch.mask.shape)
        rows = local.nonzero().flatten()
        with torch.no_grad(), evaluating(policy.network):
            for part in self.forward.parts(batch.rows(rows)) if len(rows) else ():
                micro_rows = rows[part.rows]
                micro = batch.rows(micro_rows).to(policy.device)
                read, live, _ = self.live.read(micro, scored.anchor_head, part.rows_per_forward)
                at_tokens = divergence_at_tokens(penalty, read, live, live, micro)
                width = live.shape[1]
                divergence[micro_rows, :width], logprobs[micro_rows, :width] = moved(
                    [at_tokens.float(), live.float()], divergence.device
                )
        self.ranks.all_reduce(divergence, logprobs)
        return masked(divergence, batch.mask), batch.with_(old_logprobs=logprobs)

    def _reference_head(self, reference: LanguageModel) -> Head:
        # Divided parameters are gathered for a phase only.
        divided = self.ranks.world_size > 1
        return self._frozen_head(reference) if divided else reference.head(self.live.settings.temperature)

    def _frozen_head(self, model: LanguageModel) -> Head:
        head = model.head(self.live.settings.temperature)
        return replace(head, projection=copy.deepcopy(head.projection))
