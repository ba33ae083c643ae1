"""What the loss reads of the policy that is trained, at the tokens of a micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import TrustRegion
from mirrorpo.core.shapes import PerToken
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.head import Head, HeadOutputs
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.mixed_head import MixedHead
from mirrorpo.train.anchoring import anchor_reader, divergence_at_tokens
from mirrorpo.train.scored import LiveStates, OldPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePolicy:
    """The policy as an update reads it.

    Attributes:
        policy: the model that is trained.
        penalty: a divergence with its coefficient and anchor.
        trust_region: which reads the distance to the old policy.
        settings: of the passes and updates.
        entropy_gradient: whether the entropy is part of the loss.
    """

    policy: LanguageModel
    penalty: Penalty
    trust_region: TrustRegion
    settings: UpdateSettings
    entropy_gradient: bool = False

    def outputs(
        self,
        batch: RolloutBatch,
        anchor_head: Head | MixedHead | None,
        rows_per_forward: Sequence[int] = (),
        old_states: OldPolicy | None = None,
    ) -> PolicyOutputs:
        """The live policy on a micro-batch, with gradient where it is enabled."""
        head_outputs, logprobs, hidden = self.read(batch, anchor_head, rows_per_forward)
        divergence = torch.zeros_like(logprobs)
        if self.penalty.in_loss:
            old = logprobs.detach() if self.settings.on_policy else batch.old_logprobs
            divergence = divergence_at_tokens(self.penalty, head_outputs, logprobs, old, batch)
        entropy = per_token(head_outputs.entropy, batch)
        return PolicyOutputs(
            logprobs=logprobs,
            entropy=entropy,
            divergence=divergence,
            distance=self._distance(batch, logprobs, hidden, old_states),
        )

    def read(
        self, batch: RolloutBatch, anchor_head: Head | MixedHead | None, rows_per_forward: Sequence[int]
    ) -> tuple[HeadOutputs, PerToken, Tensor]:
        """What the head gives, the log-probabilities at the tokens, and the hidden states behind them."""
        kept = anchor_head is not None or bool(batch.anchor_top_ids.shape[-1])
        head_outputs, hidden = read_completions(
            self.policy,
            batch,
            temperature=self.settings.temperature,
            logit_chunk=self.settings.logit_chunk,
            rows_per_forward=rows_per_forward,
            reader=anchor_reader(self.penalty, batch, anchor_head) if kept else None,
            entropy_gradient=self.entropy_gradient,
        )
        return head_outputs, per_token(head_outputs.logprobs, batch), hidden

    @torch.no_grad()
    def _distance(
        self, batch: RolloutBatch, logprobs: PerToken, hidden: Tensor, old_states: OldPolicy | None
    ) -> PerToken | None:
        # D(pi_old, pi) of each trained token, for the trust region.
        region = self.trust_region
        if region.reads == "nothing":
            return None
        if self.settings.on_policy:
            return torch.zeros_like(logprobs)
        if old_states is None:
            both = [masked(values, batch.mask) for values in (batch.old_logprobs, logprobs)]
            return masked(region.distance(*both), batch.mask)
        present = batch.located().present
        live = LiveStates(
            head=self.policy.head(self.settings.temperature),
            hidden=hidden[present],
            tokens=batch.completion_ids[present],
            logprobs=logprobs[present],
            old_logprobs=batch.old_logprobs[present],
            logit_chunk=self.settings.logit_chunk,
        )
        return masked(per_token(old_states.distance(region, live, present), batch), batch.mask)
