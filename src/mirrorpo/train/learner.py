"""Everything between a rollout and the optimiser: rescoring, micro-batches, updates."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mirrorpo.algo.importance_correction import TruncatedImportance
from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import masked, mean_one
from mirrorpo.core.protocols import Divergence, Optimiser, Weighting
from mirrorpo.core.shapes import PerCompletion, PerToken, TokenMask
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.fsdp import full_tensor, local_shard
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.head import Head
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prefix import obstacle
from mirrorpo.train.loss import policy_loss
from mirrorpo.train.metrics import RunningMeans, update_metrics
from mirrorpo.train.micro_batch import PrefixSharing, plan_micro_batches
from mirrorpo.train.old_policy import ForwardSettings, PolicyScorer
from mirrorpo.weighting.counterfactual import Counterfactual, ScoredSpan

# What a `Learner` takes from a run's settings as it is.
SETTINGS = (
    "temperature",
    "logit_chunk",
    "tokens_per_micro_batch",
    "shared_prefix",
    "updates_per_rollout",
    "update_window",
    "max_grad_norm",
)


class NotFinite(FloatingPointError):
    """A loss, a gradient or an updated weight is NaN or infinite; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """Updates a policy on rollouts.

    Attributes:
        policy: the model that is trained.
        reference: the frozen start model, or None when nothing reads it.
        optimiser: over the policy's trainable parameters.
        algo: the algorithm's row.
        divergence: the penalty and its anchor.
        weighting: token weights.
        temperature: of the sampler; scoring uses the same.
        logit_chunk: positions whose logits exist at once.
        tokens_per_micro_batch: padded tokens of a forward and backward pass.
        shared_prefix: whether a prompt goes through the network once for all its completions: "auto", where
            the model can and it computes less; "always", and a model that cannot is refused; "never".
        updates_per_rollout: optimiser steps on a rollout.
        update_window: "whole", every update sees the whole rollout (GRPO's mu); "split", each sees
            its own share of the groups (DAPO's mini-batches).
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        importance_correction: correction for the gap between sampler and old policy, or None.
        ranks: among which the rows of a pass are divided.
    """

    policy: LanguageModel
    reference: LanguageModel | None
    optimiser: Optimiser
    algo: Algorithm
    divergence: Divergence
    weighting: Weighting
    temperature: float
    logit_chunk: int
    tokens_per_micro_batch: int
    shared_prefix: PrefixSharing
    updates_per_rollout: int
    update_window: Literal["whole", "split"]
    max_grad_norm: float
    importance_correction: TruncatedImportance | None = None
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        if self.shared_prefix == "always" and (reason := obstacle(self.policy)):
            raise ValueError(f"shared_prefix=always: {reason}; change that, or set shared_prefix=auto")

    @property
    def prefix_sharing(self) -> PrefixSharing:
        """Whether prompts are computed once; the same for policy and reference, so that equal weights read
        equal numbers.
        """
        return "never" if self.shared_prefix == "never" or obstacle(self.policy) else self.shared_prefix

    @property
    def on_policy(self) -> bool:
        """One update per rollout: the live policy is the old one, and its own log-probabilities are the old
        ones.
        """
        return self.updates_per_rollout == 1

    @property
    def old_policy(self) -> PolicyScorer:
        """The policy as it is now, for weightings that ask it."""
        settings = {
            name: getattr(self, name)
            for name in ("temperature", "logit_chunk", "tokens_per_micro_batch", "prefix_sharing", "ranks")
        }
        return PolicyScorer(policy=self.policy, forward=ForwardSettings(**settings))

    def rescore(self, batch: RolloutBatch) -> tuple[RolloutBatch, Head | None]:
        """The batch with old and anchor log-probabilities, as far as somebody reads them, and the anchor's
        head.

        On-policy the old log-probabilities are left to the update's own forward.
        """
        exact = self.divergence.reads == "vocabulary"
        from_old = self.divergence.reads != "nothing" and self.divergence.anchor == "old"
        forward = self.old_policy.forward
        # Hidden states stay with the rank that will learn from them.
        mine = self._mine(batch, self._windows(batch, self.updates_per_rollout))
        if not self.on_policy or from_old:
            old = forward.score(self.policy, batch, mine, keep_hidden=exact and from_old)
            batch = batch.with_(old_logprobs=old.logprobs)
            if from_old:
                return batch.with_(anchor_logprobs=old.logprobs, anchor_hidden=old.hidden), self._frozen_head(
                    self.policy
                ) if exact else None
        if self.reference is None:
            return batch, None
        with self.reference.shards.gathered():
            anchor = forward.score(self.reference, batch, mine, keep_hidden=exact)
            divided = self.ranks.world_size > 1
            head = (
                None
                if not exact
                else self._frozen_head(self.reference)
                if divided
                else self.reference.head(self.temperature)
            )
        return batch.with_(anchor_logprobs=anchor.logprobs, anchor_hidden=anchor.hidden), head

    def _frozen_head(self, model: LanguageModel) -> Head:
        head = model.head(self.temperature)
        return replace(head, projection=copy.deepcopy(head.projection))

    def _windows(self, batch: RolloutBatch, updates: int) -> list[Int[Tensor, " N"]]:
        # The rows of each update.
        if self.update_window == "whole":
            return [torch.arange(len(batch))] * updates
        _, place = torch.unique(batch.group, return_inverse=True)
        return [(place % updates == update).nonzero().flatten() for update in range(updates)]

    def _mine(self, batch: RolloutBatch, windows: Sequence[Tensor]) -> Bool[Tensor, " B"]:
        # The rows that this rank passes through the network: its share of each window.
        mine, lengths = torch.zeros(len(batch), dtype=torch.bool), batch.lengths()
        for rows in windows:
            mine[rows] = self.ranks.share(lengths[rows])
        return mine

    def weigh(
        self, batch: RolloutBatch, advantages: PerCompletion, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """Token weights with mean one over each completion's trained tokens, and the spans that were scored
        for them.

        Completions that the weights cannot act on, those without a trained token, and those of advantage
        zero unless the divergence is weighted too, keep ones and cost nothing.
        """
        weights = batch.mask.to(torch.float32)
        acts = advantages != 0
        if self.weighting.scope == "loss" and self.divergence.reads != "nothing":
            acts = torch.ones_like(acts)
        if isinstance(self.weighting, Counterfactual):
            # Asked of the whole rollout, since a group's mean is that of all its completions.
            acts = acts & self.weighting.wanted(batch)
        rows = (acts & batch.mask.any(dim=1)).nonzero().flatten()
        if len(rows) == 0:
            return weights, []
        part, spans = batch.rows(rows), []
        if isinstance(self.weighting, Counterfactual):
            found, spans = self.weighting.explain(part, self.old_policy, seed)
        else:
            found = self.weighting(part, self.old_policy, seed)
        weights[rows, : found.shape[1]] = mean_one(found, part.mask)
        return weights, [replace(one, row=int(rows[one.row])) for one in spans]

    def outputs(
        self, batch: RolloutBatch, anchor_head: Head | None, rows_per_forward: Sequence[int] = ()
    ) -> PolicyOutputs:
        """The live policy on a micro-batch, with gradient where it is enabled."""
        unread = torch.zeros((), device=batch.mask.device)
        reader = None if anchor_head is None else lambda log_p, log_q: self.divergence(log_p, log_q, unread)
        settings = {"temperature": self.temperature, "logit_chunk": self.logit_chunk}
        head_outputs, _ = read_completions(
            self.policy,
            batch,
            **settings,
            rows_per_forward=rows_per_forward,
            reader=reader,
            anchor_head=anchor_head,
        )
        logprobs = per_token(head_outputs.logprobs, batch)
        if self.divergence.reads == "sampled":
            # Masked before the divergence sees them: an unread NaN must not reach a gradient.
            old = logprobs.detach() if self.on_policy else batch.old_logprobs
            read = [masked(values, batch.mask) for values in (logprobs, batch.anchor_logprobs, old)]
            divergence = masked(self.divergence(*read), batch.mask)
        else:
            divergence = per_token(head_outputs.reader_output, batch)
        return PolicyOutputs(
            logprobs=logprobs, entropy=per_token(head_outputs.entropy, batch), divergence=divergence
        )

    def learn(
        self,
        batch: RolloutBatch,
        advantages: PerCompletion,
        weights: PerToken,
        anchor_head: Head | None,
        lrs: list[float],
    ) -> dict[str, float]:
        """All updates on one rollout, one learning rate each; the means of their metrics.

        Raises:
            NotFinite: before the parameters are touched, if the loss or the gradient is not finite; after, if
                a weight is not.
        """
        means = RunningMeans()
        losses: list[float] = []
        norms: list[float] = []
        windows = self._windows(batch, len(lrs))
        mine = self._mine(batch, windows)
        for update, (lr, rows) in enumerate(zip(lrs, windows, strict=True)):
            if len(rows) == 0:
                # Dynamic sampling may leave fewer groups than updates.
                continue
            with self.policy.shards.gathered():
                passed = self._accumulate(
                    batch, rows, mine, advantages, weights, anchor_head, means, first=update == 0
                )
                self.policy.shards.reduce()
            loss = sum(self.ranks.all_gather(passed))
            parameters = [
                parameter for parameter in self.policy.network.parameters() if parameter.grad is not None
            ]
            norm = float(
                full_tensor(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or float("inf")))
            )
            if not (torch.isfinite(torch.tensor([loss, norm])).all()):
                raise NotFinite(f"loss {loss}, gradient norm {norm} at update {update} of the rollout")
            self.optimiser.step(lr)
            self.optimiser.zero_grad()
            if not all(
                self.ranks.all_gather(
                    all(bool(local_shard(parameter).isfinite().all()) for parameter in parameters)
                )
            ):
                raise NotFinite(
                    f"a weight is not finite after update {update} of the rollout (loss {loss}, gradient "
                    f"norm {norm}, lr {lr})"
                )
            losses.append(loss)
            norms.append(norm)
        means = RunningMeans.joined(self.ranks.all_gather(means))
        return means.read() | {
            "loss/value": sum(losses) / len(losses),
            "grad/norm": sum(norms) / len(norms),
            "lr/value": lrs[len(losses) - 1],
        }

    def _accumulate(
        self,
        batch: RolloutBatch,
        rows: Int[Tensor, " N"],
        mine: Bool[Tensor, " B"],
        advantages: PerCompletion,
        weights: PerToken,
        anchor_head: Head | None,
        means: RunningMeans,
        *,
        first: bool,
    ) -> float:
        mask = batch.mask[rows]
        denominator = self.algo.aggregate.denominator(mask).to(self.policy.device)
        total = 0.0
        self.policy.network.train()
        has_gradient = self._has_gradient(mask, advantages[rows])
        for chosen, needs_gradient in ((has_gradient, True), (mask.any(dim=1) & ~has_gradient, False)):
            places = rows[chosen & mine[rows]]
            parts = (
                plan_micro_batches(batch.rows(places), self.tokens_per_micro_batch, self.prefix_sharing)
                if len(places)
                else []
            )
            for part in parts:
                picked = places[part.rows]
                micro = batch.rows(picked).to(self.policy.device)
                width = micro.completion_ids.shape[1]
                advantage = advantages[picked].to(self.policy.device)
                weight = weights[picked][:, :width].to(self.policy.device)
                with torch.set_grad_enabled(needs_gradient):
                    policy = self.outputs(micro, anchor_head, part.rows_per_forward)
                    if self.on_policy:
                        micro = micro.with_(old_logprobs=policy.logprobs.detach())
                    meeting = {
                        "algo": self.algo,
                        "divergence": self.divergence,
                        "weighting": self.weighting,
                        "importance_correction": self.importance_correction,
                    }
                    loss = policy_loss(policy, micro, advantage, weight, **meeting, denominator=denominator)
                if needs_gradient:
                    loss.backward()
                total += float(loss.detach())
                update_metrics(
                    means,
                    policy,
                    micro,
                    advantage,
                    self.algo,
                    first=first,
                    anchored=self.reference is not None,
                    importance_correction=self.importance_correction,
                )
        return total

    def _has_gradient(self, mask: TokenMask, advantages: PerCompletion) -> Bool[Tensor, " B"]:
        # Rows whose gradient is not zero: the others are read for the metrics alone, without a backward pass.
        penalised = self.divergence.reads != "nothing" and self.divergence.beta != 0
        has_gradient = mask.any(dim=1) & ((advantages != 0) | penalised)
        # A gradient that is zero moves Adam's averages on, one that is absent does not.
        return has_gradient if bool(has_gradient.any()) else torch.arange(len(mask)) == 0
