"""Everything between a rollout and the optimiser: rescoring, micro-batches, updates."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.masked import masked, mean_one
from mirrorpo.core.modes import evaluating
from mirrorpo.core.protocols import Divergence, Optimiser, Weighting
from mirrorpo.core.shapes import PerCompletion, PerToken
from mirrorpo.core.spelling import Spelling
from mirrorpo.loss import policy_loss
from mirrorpo.metrics import Means, update_metrics
from mirrorpo.micro_batches import Sharing, micro_batches, planned
from mirrorpo.mismatch import TruncatedImportance
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.head import Head
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.saliency import attention_received, gradient_times_embedding
from mirrorpo.weighting.counterfactual import Counterfactual, ScoredSpan

# What a `Learner` takes from a run's settings as it is.
SETTINGS = ("temperature", "tile", "tokens_per_micro_batch", "shared_prefix", "updates_per_rollout", "update_window", "max_grad_norm")


class NotFinite(FloatingPointError):
    """A loss, a gradient or an updated weight is NaN or infinite; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a pass without gradient reads of a batch, on the CPU.

    Attributes:
        logprobs: of the batch's tokens.
        entropy: of the distribution each token is drawn from, in nats.
        hidden: the last hidden states behind them, D = 0 unless asked for.
    """

    logprobs: PerToken
    entropy: PerToken
    hidden: Float[Tensor, "B T D"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OldPolicy:
    """A `Scorer`: the policy as it is now, in eval mode and without gradient."""

    learner: "Learner"

    def logprobs(self, batch: RolloutBatch) -> PerToken:
        """Log-probability of every completion token."""
        return self.learner.score(self.learner.policy, batch).logprobs

    def entropies(self, batch: RolloutBatch) -> PerToken:
        """Entropy at every completion token, in nats."""
        return self.learner.score(self.learner.policy, batch).entropy

    def spelled(self, batch: RolloutBatch) -> Sequence[Spelling]:
        """Every completion's text, and which characters each token wrote."""
        return [self.learner.policy.spelled(ids[present].tolist()) for ids, present in zip(batch.completion_ids, batch.present, strict=True)]

    def cut(self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking) -> tuple[PerToken, Float[Tensor, "N T"]]:
        """What each cut reads, with nothing hidden and with its span hidden."""
        learner = self.learner
        before, after = torch.zeros(batch.present.shape), torch.zeros(len(cuts), batch.present.shape[1])
        cut_rows = torch.tensor(sorted({cut.row for cut in cuts}), dtype=torch.long)
        for picked in micro_batches(batch.rows(cut_rows), learner.tokens_per_micro_batch):
            rows = cut_rows[picked]
            place = {row: index for index, row in enumerate(rows.tolist())}
            indices = [index for index, cut in enumerate(cuts) if cut.row in place]
            moved = [replace(cuts[index], row=place[cuts[index].row]) for index in indices]
            micro = batch.rows(rows).to(learner.policy.device)
            whole, hidden = read_cuts(learner.policy, micro, moved, masking=masking, temperature=learner.temperature, tile=learner.tile)
            width = micro.present.shape[1]
            before[rows, :width] = whole.cpu()
            after[indices, :width] = hidden.cpu()
        return before, after

    def importance(self, batch: RolloutBatch, firsts: Sequence[int], signal: Literal["gradient", "attention"]) -> PerToken:
        """What the score of each completion from a token on owes to its tokens."""
        learner, out = self.learner, torch.zeros(batch.present.shape)
        for rows in micro_batches(batch, learner.tokens_per_micro_batch):
            micro = batch.rows(rows).to(learner.policy.device)
            here = [firsts[row] for row in rows.tolist()]
            if signal == "gradient":
                found = gradient_times_embedding(learner.policy, micro, here, temperature=learner.temperature, tile=learner.tile)
            else:
                found = attention_received(learner.policy, micro, here)
            out[rows, : found.shape[1]] = found.cpu()
        return out


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
        tile: positions whose logits exist at once.
        tokens_per_micro_batch: padded tokens of a forward and backward pass.
        shared_prefix: whether a prompt goes through the network once for all its completions: "auto", where the model
            can and it computes less; "always", and a model that cannot is refused; "never".
        updates_per_rollout: optimiser steps on a rollout.
        update_window: "whole", every update sees the whole rollout (GRPO's mu); "split", each sees
            its own share of the groups (DAPO's mini-batches).
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        mismatch: correction for the gap between sampler and old policy, or None.
    """

    policy: LanguageModel
    reference: LanguageModel | None
    optimiser: Optimiser
    algo: Algorithm
    divergence: Divergence
    weighting: Weighting
    temperature: float
    tile: int
    tokens_per_micro_batch: int
    shared_prefix: Sharing
    updates_per_rollout: int
    update_window: Literal["whole", "split"]
    max_grad_norm: float
    mismatch: TruncatedImportance | None = None

    def __post_init__(self) -> None:
        if self.shared_prefix == "always" and (reason := obstacle(self.policy)):
            raise ValueError(f"shared_prefix=always: {reason}; change that, or set shared_prefix=auto")

    @property
    def sharing(self) -> Sharing:
        """Whether prompts are computed once; the same for policy and reference, so that equal weights read equal numbers."""
        return "never" if self.shared_prefix == "never" or obstacle(self.policy) else self.shared_prefix

    @property
    def on_policy(self) -> bool:
        """One update per rollout: the live policy is the old one, and its own log-probabilities are the old ones."""
        return self.updates_per_rollout == 1

    def score(self, model: LanguageModel, batch: RolloutBatch, *, keep_hidden: bool = False) -> Scores:
        """The batch under a model in eval mode, without gradient."""
        logprobs, entropy = torch.zeros(batch.present.shape), torch.zeros(batch.present.shape)
        hidden = batch.anchor_hidden
        for part in planned(batch, self.tokens_per_micro_batch, self.sharing):
            rows, micro = part.rows, batch.rows(part.rows).to(model.device)
            with torch.no_grad(), evaluating(model.network):
                readings, states = read_completions(model, micro, temperature=self.temperature, tile=self.tile, pieces=part.pieces)
            width = micro.completion_ids.shape[1]
            logprobs[rows, :width] = per_token(readings.logprobs, micro).float().cpu()
            entropy[rows, :width] = per_token(readings.entropy, micro).float().cpu()
            if keep_hidden:
                if hidden.shape[-1] == 0:
                    hidden = torch.zeros(*batch.present.shape, states.shape[-1], dtype=states.dtype)
                hidden[rows, :width] = states.cpu()
        return Scores(logprobs=logprobs, entropy=entropy, hidden=hidden)

    def rescore(self, batch: RolloutBatch) -> tuple[RolloutBatch, Head | None]:
        """The batch with old and anchor log-probabilities, as far as somebody reads them, and the anchor's head.

        On-policy the old log-probabilities are left to the update's own forward.
        """
        exact = self.divergence.reads == "vocabulary"
        from_old = self.divergence.reads != "nothing" and self.divergence.anchor == "old"
        if not self.on_policy or from_old:
            old = self.score(self.policy, batch, keep_hidden=exact and from_old)
            batch = batch.with_(old_logprobs=old.logprobs)
            if from_old:
                head = self.policy.head(self.temperature)
                frozen = replace(head, projection=copy.deepcopy(head.projection)) if exact else None
                return batch.with_(anchor_logprobs=old.logprobs, anchor_hidden=old.hidden), frozen
        if self.reference is None:
            return batch, None
        anchor = self.score(self.reference, batch, keep_hidden=exact)
        return batch.with_(anchor_logprobs=anchor.logprobs, anchor_hidden=anchor.hidden), self.reference.head(self.temperature) if exact else None

    def weigh(self, batch: RolloutBatch, advantages: PerCompletion, seed: int) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """Token weights with mean one over each completion's trained tokens, and the spans that were scored for them.

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
            found, spans = self.weighting.explain(part, OldPolicy(learner=self), seed)
        else:
            found = self.weighting(part, OldPolicy(learner=self), seed)
        weights[rows, : found.shape[1]] = mean_one(found, part.mask)
        return weights, [replace(one, row=int(rows[one.row])) for one in spans]

    def outputs(self, batch: RolloutBatch, anchor_head: Head | None, pieces: Sequence[int] = ()) -> PolicyOutputs:
        """The live policy on a micro-batch, with gradient where it is enabled."""
        unread = torch.zeros((), device=batch.mask.device)
        reader = None if anchor_head is None else lambda log_p, log_q: self.divergence(log_p, log_q, unread)
        settings = {"temperature": self.temperature, "tile": self.tile}
        readings, _ = read_completions(self.policy, batch, **settings, pieces=pieces, reader=reader, anchor_head=anchor_head)
        logprobs = per_token(readings.logprobs, batch)
        if self.divergence.reads == "sampled":
            # Masked before the divergence sees them: an unread NaN must not reach a gradient.
            old = logprobs.detach() if self.on_policy else batch.old_logprobs
            read = [masked(values, batch.mask) for values in (logprobs, batch.anchor_logprobs, old)]
            divergence = masked(self.divergence(*read), batch.mask)
        else:
            divergence = per_token(readings.reading, batch)
        return PolicyOutputs(logprobs=logprobs, entropy=per_token(readings.entropy, batch), divergence=divergence)

    def learn(self, batch: RolloutBatch, advantages: PerCompletion, weights: PerToken, anchor_head: Head | None, lrs: list[float]) -> dict[str, float]:
        """All updates on one rollout, one learning rate each; the means of their metrics.

        Raises:
            NotFinite: before the parameters are touched, if the loss or the gradient is not finite; after, if a weight is not.
        """
        means = Means()
        losses: list[float] = []
        norms: list[float] = []
        _, place = torch.unique(batch.group, return_inverse=True)
        for update, lr in enumerate(lrs):
            rows = torch.arange(len(batch))
            if self.update_window == "split":
                rows = rows[place % len(lrs) == update]
                if len(rows) == 0:
                    # Dynamic sampling may leave fewer groups than updates.
                    continue
            loss = self._accumulate(batch, rows, advantages, weights, anchor_head, means, first=update == 0)
            parameters = [parameter for parameter in self.policy.network.parameters() if parameter.grad is not None]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or float("inf")))
            if not (torch.isfinite(torch.tensor([loss, norm])).all()):
                raise NotFinite(f"loss {loss}, gradient norm {norm} at update {update} of the rollout")
            self.optimiser.step(lr)
            self.optimiser.zero_grad()
            if not all(bool(parameter.isfinite().all()) for parameter in parameters):
                raise NotFinite(f"a weight is not finite after update {update} of the rollout (loss {loss}, gradient norm {norm}, lr {lr})")
            losses.append(loss)
            norms.append(norm)
        return means.read() | {"loss/value": sum(losses) / len(losses), "grad/norm": sum(norms) / len(norms), "lr/value": lrs[len(losses) - 1]}

    def _accumulate(
        self, batch: RolloutBatch, rows: Tensor, advantages: PerCompletion, weights: PerToken, anchor_head: Head | None, means: Means, *, first: bool
    ) -> float:
        window, advantages, weights = batch.rows(rows), advantages[rows], weights[rows]
        denominator = self.algo.aggregate.denominator(window.mask).to(self.policy.device)
        total = 0.0
        self.policy.network.train()
        taught = self._taught(window, advantages)
        for chosen, teaches in ((taught, True), (window.mask.any(dim=1) & ~taught, False)):
            places = chosen.nonzero().flatten()
            parts = planned(window.rows(places), self.tokens_per_micro_batch, self.sharing) if len(places) else []
            for part in parts:
                picked = places[part.rows]
                micro = window.rows(picked).to(self.policy.device)
                width = micro.completion_ids.shape[1]
                advantage = advantages[picked].to(self.policy.device)
                weight = weights[picked][:, :width].to(self.policy.device)
                with torch.set_grad_enabled(teaches):
                    policy = self.outputs(micro, anchor_head, part.pieces)
                    if self.on_policy:
                        micro = micro.with_(old_logprobs=policy.logprobs.detach())
                    meeting = {"algo": self.algo, "divergence": self.divergence, "weighting": self.weighting, "mismatch": self.mismatch}
                    loss = policy_loss(policy, micro, advantage, weight, **meeting, denominator=denominator)
                if teaches:
                    loss.backward()
                total += float(loss.detach())
                update_metrics(means, policy, micro, advantage, self.algo, first=first, anchored=self.reference is not None, mismatch=self.mismatch)
        return total

    def _taught(self, window: RolloutBatch, advantages: PerCompletion) -> Tensor:
        # Rows whose gradient is not zero: the others are read for the metrics alone, without a backward pass.
        penalised = self.divergence.reads != "nothing" and self.divergence.beta != 0
        taught = window.mask.any(dim=1) & ((advantages != 0) | penalised)
        # A gradient that is zero moves Adam's averages on, one that is absent does not.
        return taught if bool(taught.any()) else torch.arange(len(window)) == 0
