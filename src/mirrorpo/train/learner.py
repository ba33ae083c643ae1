"""Everything between a rollout and the optimiser: credit, micro-batches, updates."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mirrorpo.algo.row import Algorithm, first_visit
from mirrorpo.algo.trust_region import NO_TRUST_REGION
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch, Visit
from mirrorpo.core.masked import masked, mean_one
from mirrorpo.core.protocols import (
    ImportanceCorrection,
    Optimiser,
    Roller,
    SegmentCredit,
    SpanWeighting,
    TrustRegion,
)
from mirrorpo.core.shapes import PerCompletion, PerToken, Scalar, TokenMask
from mirrorpo.core.tensors import all_finite, moved, numbers
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.fsdp import copy_weight, full_tensor, local_shard
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.placement import completion_cost
from mirrorpo.model.adapter import moving_weights
from mirrorpo.model.cost import reading
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prefix import obstacle
from mirrorpo.train.budget import PassMeter
from mirrorpo.train.correction_metrics import correction_metrics, derived
from mirrorpo.train.credit import TokenCredit, segment_credit, signed_credit
from mirrorpo.train.entropy import NO_ENTROPY_TERM, EntropyTerm
from mirrorpo.train.live_policy import LivePolicy
from mirrorpo.train.loss import policy_loss
from mirrorpo.train.metrics import RunningMeans, Totals, held_metrics, update_metrics
from mirrorpo.train.old_policy import PolicyScorer, policy_scorer
from mirrorpo.train.rescore import Rescore
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.train.update_window import UpdateWindows


class NotFinite(FloatingPointError):
    """A loss, a gradient or an updated weight is NaN or infinite; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    # One optimiser step's share of a rollout.
    scored: ScoredBatch
    credit: TokenCredit
    rows: Int[Tensor, " N"]
    local: Bool[Tensor, " B"]
    first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    # One optimiser step that was taken; whether the weights are finite after it is not read yet.
    number: int
    lr: float
    loss: float
    norm: float
    weights_finite: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """Updates a policy on rollouts.

    Attributes:
        policy: the model that is trained.
        reference: the frozen start model, or None when nothing reads it; an anchor that moves moves it.
        optimiser: over the policy's trainable parameters.
        algo: the algorithm's row.
        penalty: a divergence with its coefficient and anchor.
        weighting: token weights, or signed credit in their place.
        settings: of the passes and updates.
        importance_correction: for the gap between sampler and old policy, or None.
        trust_region: a factor on the credit of tokens that have moved away from the old policy.
        entropy: what keeps the policy's entropy up.
        ranks: among which the rows of a pass are divided.
        meter: counts the passes.
        second_reference: of an anchor that is a mixture of two references, the second.
    """

    policy: LanguageModel
    reference: LanguageModel | None
    optimiser: Optimiser
    algo: Algorithm
    penalty: Penalty
    weighting: SpanWeighting | SegmentCredit
    settings: UpdateSettings
    importance_correction: ImportanceCorrection | None = None
    trust_region: TrustRegion = NO_TRUST_REGION
    entropy: EntropyTerm = NO_ENTROPY_TERM
    ranks: Ranks = ALONE
    meter: PassMeter = field(default_factory=PassMeter)
    second_reference: LanguageModel | None = None

    def __post_init__(self) -> None:
        if self.settings.shared_prefix == "always" and (reason := obstacle(self.policy)):
            raise ValueError(f"shared_prefix=always: {reason}; change that, or set shared_prefix=auto")

    @property
    def live(self) -> LivePolicy:
        """The policy as an update reads it."""
        return LivePolicy(
            policy=self.policy,
            penalty=self.penalty,
            trust_region=self.trust_region,
            settings=self.settings,
            entropy_gradient=self.entropy.has_gradient,
        )

    @property
    def reads_before_updates(self) -> bool:
        """Whether what an update trains on depends on where the policy is before it."""
        return self.algo.update_advantage is not None or self.entropy.chooses

    @property
    def windows(self) -> UpdateWindows:
        """Which rows each update reads."""
        return UpdateWindows(update_window=self.settings.update_window, ranks=self.ranks)

    @property
    def old_policy(self) -> PolicyScorer:
        """The policy as it is now, for weightings that ask it."""
        return policy_scorer(self.policy, self.settings, self.ranks, self.meter)

    @property
    def references(self) -> Sequence[LanguageModel]:
        """The references that are read, in the order of the anchor's parts."""
        return [model for model in (self.reference, self.second_reference) if model is not None]

    def move_reference(self, share: float, number: int = 0) -> None:
        """Let a reference's weights take a share of the policy's, theta_a + share (theta - theta_a).

        A share of one gives the policy's weights to the bit.
        """
        if share == 0 or number >= len(self.references):
            return
        live = dict(self.policy.network.named_parameters())
        with torch.no_grad():
            for name, moving in self.moving_weights(number).items():
                local, towards = local_shard(moving), local_shard(live[name])
                if share == 1:
                    local.copy_(towards)
                else:
                    local.lerp_(towards.to(local.dtype), share)

    def moving_weights(self, number: int = 0) -> dict[str, Tensor]:
        """A reference's weights that move, by the policy's names of them."""
        references = self.references
        return moving_weights(references[number], self.policy) if number < len(references) else {}

    def load_moving_weights(self, weights: Mapping[str, Tensor], number: int = 0) -> None:
        """Take up a reference's weights of a checkpoint."""
        with torch.no_grad():
            for name, moving in self.moving_weights(number).items():
                copy_weight(moving, weights[name])

    def rescore(self, batch: RolloutBatch) -> ScoredBatch:
        """A rollout with old and anchor log-probabilities, as far as somebody reads them."""
        rescore = Rescore(
            live=self.live,
            references=self.references,
            windows=self.windows,
            forward=self.old_policy.forward,
            updates_read_old=self.reads_before_updates,
            ranks=self.ranks,
            meter=self.meter,
        )
        return rescore(batch)

    def credit(
        self, scored: ScoredBatch, seed: int, visit: Visit | None = None, roller: Roller | None = None
    ) -> TokenCredit:
        """What each token is credited with: advantages, weights, and what a penalty takes from them.

        Args:
            scored: a rollout.
            seed: of the step's random numbers.
            visit: of the rollout's prompts; None, as if none had been seen before.
            roller: re-rolls the rollout's completions, for segment credit.
        """
        batch, penalty = scored.batch, self.penalty
        divergence, rewards = scored.divergence, batch.rewards
        if divergence is not None:
            rewards = rewards - penalty.beta * completion_cost(divergence, batch.mask, penalty.placement)
        if visit is None:
            visit = first_visit(batch.group)
        advantages, memory = self.algo.visited(batch, visit, rewards)
        if isinstance(self.weighting, SegmentCredit):
            assert roller is not None
            credit = segment_credit(self.weighting, batch, self.old_policy, roller, seed)
        else:
            credit = self.weigh(batch, advantages, seed)
        return self._signed(replace(credit, divergence=divergence, memory=memory), batch.mask)

    def _signed(self, credit: TokenCredit, mask: TokenMask) -> TokenCredit:
        # Credit with what a penalty takes from it and a normalisation makes of it, where there is either.
        if credit.divergence is None and self.algo.token_normalisation is None:
            return credit
        signed = signed_credit(
            credit.advantages if credit.segments is None else credit.segments,
            credit.weights if credit.segments is None else torch.ones_like(credit.segments),
            torch.zeros_like(credit.weights) if credit.divergence is None else credit.divergence,
            mask,
            penalty=self.penalty,
            normalisation=self.algo.token_normalisation,
        )
        return replace(credit, signed=signed)

    def weigh(self, batch: RolloutBatch, advantages: PerCompletion, seed: int) -> TokenCredit:
        """Token weights with mean one over each completion's trained tokens, and the spans behind them.

        Completions that the weights cannot act on, those without a trained token, and those of advantage
        zero unless a divergence or the entropy is weighted too, keep ones and cost nothing.
        """
        weighting, weights = self.weighting, batch.mask.to(torch.float32)
        assert not isinstance(weighting, SegmentCredit)
        acts = advantages != 0
        if self.penalty.scope == "loss" and (self.penalty.measured or self.entropy.gains):
            acts = torch.ones_like(acts)
        # Over all of the rollout, since a group's mean is that of all its completions.
        acts = acts & weighting.covers(batch)
        rows = (acts & batch.mask.any(dim=1)).nonzero().flatten()
        if len(rows) == 0:
            return TokenCredit(advantages=advantages, weights=weights)
        # No weighting reads what is large of the anchor.
        part = batch.without_anchor().rows(rows)
        raw, spans = weighting.explain(part, self.old_policy, seed)
        weights[rows, : raw.shape[1]] = mean_one(raw, part.mask)
        spans = [replace(scored, row=int(rows[scored.row])) for scored in spans]
        return TokenCredit(advantages=advantages, weights=weights, spans=spans)

    def learn(self, scored: ScoredBatch, credit: TokenCredit, lrs: Sequence[float]) -> dict[str, float]:
        """All updates on one rollout, one learning rate each; the means of their metrics.

        Raises:
            NotFinite: before the parameters are touched, if the loss or the gradient is not finite; after, if
                a weight is not.
        """
        means = RunningMeans()
        updates: list[_Update] = []
        windows = self.windows.rows(scored.batch, len(lrs))
        local = self.windows.local(scored.batch, windows)
        for update, (lr, rows) in enumerate(zip(lrs, windows, strict=True)):
            if len(rows) == 0:
                # Dynamic sampling may leave fewer groups than updates.
                continue
            if updates:
                self._refuse_infinite(updates[-1], *numbers([updates[-1].weights_finite]))
            current = self._at_update(scored.batch, credit, rows, local, update, means)
            window = _Window(scored=scored, credit=current, rows=rows, local=local, first=update == 0)
            updates.append(self._update(window, lr, update, means))
        totals, finite = means.totals(updates[-1].weights_finite)
        self._refuse_infinite(updates[-1], *finite)
        return derived(Totals.joined(self.ranks.all_gather(totals)).means()) | {
            "loss/value": sum(update.loss for update in updates) / len(updates),
            "grad/norm": sum(update.norm for update in updates) / len(updates),
            "lr/value": lrs[len(updates) - 1],
        }

    def _at_update(
        self,
        batch: RolloutBatch,
        credit: TokenCredit,
        rows: Int[Tensor, " N"],
        local: Bool[Tensor, " B"],
        update: int,
        means: RunningMeans,
    ) -> TokenCredit:
        # Credit of a window's rows as the policy of the moment makes it.
        rows = rows[batch.mask[rows].any(dim=1)]
        if not self.reads_before_updates or len(rows) == 0:
            return credit
        live = self._live_logprobs(batch, rows, local)
        credit = self._updated_advantages(batch, credit, rows, live)
        held = self.entropy.held(batch, credit, rows, live, self.algo, update)
        if held is None:
            return credit
        if self.ranks.first:
            of_rows = [values[rows] for values in (held.chosen, held.covariance, batch.mask)]
            held_metrics(means, *moved(of_rows, self.policy.device))
        return replace(credit, held=held.chosen)

    def _live_logprobs(
        self, batch: RolloutBatch, rows: Int[Tensor, " N"], local: Bool[Tensor, " B"]
    ) -> PerToken:
        # Of the batch, known at some rows, under the policy of the moment.
        if self.settings.on_policy:
            return batch.old_logprobs
        in_window = torch.zeros_like(local)
        in_window[rows] = True
        with self.policy.shards.gathered():
            return self.old_policy.forward.score(
                self.policy, batch, local & in_window, of_all_ranks=rows
            ).logprobs

    def _updated_advantages(
        self, batch: RolloutBatch, credit: TokenCredit, rows: Int[Tensor, " N"], live: PerToken
    ) -> TokenCredit:
        update_advantage = self.algo.update_advantage
        if update_advantage is None:
            return credit
        mask = batch.mask[rows]
        old, live = (masked(values[rows], mask).double().sum(dim=1) for values in (batch.old_logprobs, live))
        advantages = credit.advantages.clone()
        advantages[rows] = update_advantage(
            advantages[rows].double(), old, live, mask.sum(dim=1), batch.group[rows]
        ).to(advantages.dtype)
        return self._signed(replace(credit, advantages=advantages), batch.mask)

    def _update(self, window: _Window, lr: float, update: int, means: RunningMeans) -> _Update:
        with self.policy.shards.gathered():
            share = self._accumulate(window, means)
            self.policy.shards.reduce()
        trained = [parameter for parameter in self.policy.network.parameters() if parameter.grad is not None]
        most = self.settings.max_grad_norm or float("inf")
        gradient_norm = full_tensor(torch.nn.utils.clip_grad_norm_(trained, most))
        # The one time that an update waits for its device before it is done.
        local_loss, norm = numbers([share, gradient_norm])
        loss = sum(self.ranks.all_gather(local_loss))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(f"loss {loss}, gradient norm {norm} at update {update} of the rollout")
        self.optimiser.step(lr)
        self.optimiser.zero_grad()
        finite = all_finite([local_shard(parameter) for parameter in trained])
        return _Update(number=update, lr=lr, loss=loss, norm=norm, weights_finite=finite)

    def _refuse_infinite(self, update: _Update, finite: float) -> None:
        # Before the next pass: an exact divergence may look NaN up in a table.
        if not all(self.ranks.all_gather(bool(finite))):
            raise NotFinite(
                f"a weight is not finite after update {update.number} of the rollout (loss {update.loss}, "
                f"gradient norm {update.norm}, lr {update.lr})"
            )

    def _accumulate(self, window: _Window, means: RunningMeans) -> Scalar:
        # The gradients of this rank's rows, and their share of the loss.
        device = self.policy.device
        mask = window.scored.batch.mask[window.rows]
        (denominator,) = moved([self.algo.aggregate.denominator(mask)], device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        self.policy.network.train()
        for rows, rows_per_forward, with_gradient in self._micro_batches(window, mask):
            micro = window.scored.batch.rows(rows).to(device)
            advantages, weights = moved([*window.credit.read(rows, micro.mask.shape[1])], device)
            advantages = advantages.expand_as(weights)
            with torch.set_grad_enabled(with_gradient):
                policy, micro, advantages, weights = self._credited_outputs(
                    window, rows, micro, advantages, weights, rows_per_forward
                )
                loss = policy_loss(
                    policy,
                    micro,
                    advantages,
                    weights,
                    algo=self.algo,
                    penalty=self.penalty,
                    importance_correction=self.importance_correction,
                    denominator=denominator,
                )
            if with_gradient:
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
            total += loss.detach()
            self._measure(means, policy, micro, advantages, first=window.first)
        return total

    def _measure(
        self,
        means: RunningMeans,
        policy: PolicyOutputs,
        micro: RolloutBatch,
        advantages: PerToken,
        *,
        first: bool,
    ) -> None:
        # A micro-batch's tokens, added to the metrics.
        anchored, correction = self.reference is not None, self.importance_correction
        update_metrics(means, policy, micro, advantages, self.algo, first=first, anchored=anchored)
        if correction is not None:
            live = policy.logprobs.detach()
            correction_metrics(means, correction, micro, live, advantages, first=first)

    def _credited_outputs(
        self,
        window: _Window,
        rows: Int[Tensor, " N"],
        micro: RolloutBatch,
        advantages: PerToken,
        weights: PerToken,
        rows_per_forward: Sequence[int],
    ) -> tuple[PolicyOutputs, RolloutBatch, PerToken, PerToken]:
        # The live policy on a micro-batch with what credit and trust region say of it; that batch, and its
        # advantages and weights with what is gained from sampled entropy.
        scored = window.scored
        old_states = scored.old and scored.old.rows(rows, micro.mask.shape[1])
        policy = self.live.outputs(micro, scored.anchor_head, rows_per_forward, old_states)
        if self.settings.on_policy:
            micro = micro.with_(old_logprobs=policy.logprobs.detach())
        policy = self._with_old_divergence(policy, window.credit, rows)
        policy = self.entropy.applied(policy, micro, self._held(window.credit, rows, micro))
        advantages, weights = self.entropy.credited(advantages, weights, micro, self.penalty.scope)
        return self._with_factor(policy, micro, advantages), micro, advantages, weights

    def _held(self, credit: TokenCredit, rows: Int[Tensor, " N"], micro: RolloutBatch) -> TokenMask | None:
        if credit.held is None:
            return None
        return moved([credit.held[rows][:, : micro.mask.shape[1]]], micro.mask.device)[0]

    def _with_factor(self, policy: PolicyOutputs, batch: RolloutBatch, advantages: PerToken) -> PolicyOutputs:
        if policy.distance is None:
            return policy
        log_ratio = masked(policy.logprobs.detach() - batch.old_logprobs, batch.mask)
        factor = self.trust_region(policy.distance, log_ratio, advantages, batch.mask)
        return replace(policy, factor=factor)

    def _with_old_divergence(
        self, policy: PolicyOutputs, credit: TokenCredit, rows: Int[Tensor, " N"]
    ) -> PolicyOutputs:
        # Where the loss has no penalty, what the advantages took in is what is reported.
        if credit.divergence is None or self.penalty.in_loss:
            return policy
        width = policy.logprobs.shape[1]
        (divergence,) = moved([credit.divergence[rows][:, :width]], policy.logprobs.device)
        return replace(policy, divergence=divergence)

    def _micro_batches(
        self, window: _Window, mask: TokenMask
    ) -> Iterator[tuple[Int[Tensor, " N"], Sequence[int], bool]]:
        # Rows that go through the network together: first those that have a gradient.
        self.meter.tokens_trained += int(mask.sum())
        has_gradient = self._has_gradient(mask, window.credit.acts(window.rows))
        local = window.local[window.rows]
        for chosen, with_gradient in ((has_gradient, True), (mask.any(dim=1) & ~has_gradient, False)):
            self._count(window, window.rows[chosen], with_gradient=with_gradient)
            rows = window.rows[chosen & local]
            if len(rows):
                part = window.scored.batch.rows(rows)
                for micro in self.old_policy.forward.parts(part):
                    yield rows[micro.rows], micro.rows_per_forward, with_gradient

    def _count(self, window: _Window, rows: Tensor, *, with_gradient: bool) -> None:
        # Of all ranks.
        tokens = reading(window.scored.batch, rows)
        self.meter.add(self.policy, tokens, "weights" if with_gradient else "none")
        if window.scored.anchor_head is not None:
            self.meter.add_head(window.scored.anchor_head, tokens.read)
        if window.scored.old is not None:
            self.meter.flops += window.scored.old.flops(tokens.read)

    def _has_gradient(self, mask: TokenMask, credited: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        # The other rows are read for the metrics alone, without a backward pass.
        penalised = self.penalty.acts and self.penalty.in_loss
        has_gradient = mask.any(dim=1) & (credited | penalised | self.entropy.gains)
        # A gradient that is zero moves Adam's averages on, one that is absent does not.
        return has_gradient if bool(has_gradient.any()) else torch.arange(len(mask)) == 0
