"""Passes over a rollout without gradient: log-probabilities, and what a weighting asks of the old policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import integers
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.saliency import attention_received, gradient_times_embedding
from mirrorpo.train.micro_batch import (
    TOKENS_PER_CALL,
    MicroBatch,
    PrefixSharing,
    micro_batches,
    plan_micro_batches,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """What a pass without gradient reads of a batch, on the CPU.

    Attributes:
        logprobs: of the batch's tokens.
        entropy: of the distribution each token is drawn from, in nats.
        hidden: the last hidden states behind them, D = 0 unless they are kept.
    """

    logprobs: PerToken
    entropy: PerToken
    hidden: Float[Tensor, "B T D"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardSettings:
    """How a batch goes through a network without gradient.

    Each rank passes its rows, and all get what was read.

    Attributes:
        temperature: of the sampler; scoring uses the same.
        logit_chunk: positions whose logits exist at once.
        tokens_per_micro_batch: padded tokens of a pass.
        prefix_sharing: whether a prompt goes through the network once for all its completions.
        tokens_per_call: what one more call of the network costs, in tokens that it could compute instead.
        ranks: among which the rows are divided.
    """

    temperature: float
    logit_chunk: int
    tokens_per_micro_batch: int
    prefix_sharing: PrefixSharing
    tokens_per_call: int
    ranks: Ranks

    def score(
        self,
        model: LanguageModel,
        batch: RolloutBatch,
        local: Bool[Tensor, " B"],
        *,
        keep_hidden: bool = False,
    ) -> TokenScores:
        """The batch under a model in eval mode.

        Args:
            model: which reads it.
            batch: what is read.
            local: rows that this rank passes through the network; it keeps the hidden states of these alone.
            keep_hidden: whether hidden states are kept.
        """
        logprobs, entropy = torch.zeros(batch.present.shape), torch.zeros(batch.present.shape)
        hidden = batch.anchor_hidden
        local_rows = local.nonzero().flatten()
        for part in self.parts(batch.rows(local_rows)) if len(local_rows) else ():
            rows = local_rows[part.rows]
            micro = batch.rows(rows).to(model.device)
            with torch.no_grad(), evaluating(model.network):
                head_outputs, states = read_completions(
                    model,
                    micro,
                    temperature=self.temperature,
                    logit_chunk=self.logit_chunk,
                    rows_per_forward=part.rows_per_forward,
                )
            width = micro.completion_ids.shape[1]
            logprobs[rows, :width] = per_token(head_outputs.logprobs, micro).float().cpu()
            entropy[rows, :width] = per_token(head_outputs.entropy, micro).float().cpu()
            if keep_hidden:
                if hidden.shape[-1] == 0:
                    hidden = torch.zeros(*batch.present.shape, states.shape[-1], dtype=states.dtype)
                hidden[rows, :width] = states.cpu()
        self.ranks.all_reduce(logprobs, entropy)
        return TokenScores(logprobs=logprobs, entropy=entropy, hidden=hidden)

    def parts(self, batch: RolloutBatch) -> Sequence[MicroBatch]:
        """How a batch of one row or more is split for passes."""
        return plan_micro_batches(
            batch, self.tokens_per_micro_batch, self.prefix_sharing, self.tokens_per_call
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyScorer:
    """A `Scorer`: the policy as it is now, in eval mode and without gradient."""

    policy: LanguageModel
    forward: ForwardSettings

    def logprobs(self, batch: RolloutBatch) -> PerToken:
        """Log-probability of every completion token."""
        return self._scores(batch).logprobs

    def entropies(self, batch: RolloutBatch) -> PerToken:
        """Entropy at every completion token, in nats."""
        return self._scores(batch).entropy

    def with_offsets(self, batch: RolloutBatch) -> Sequence[TokenOffsets]:
        """Every completion's text, and which characters each token wrote."""
        return [
            self.policy.with_offsets(integers(ids[present]))
            for ids, present in zip(batch.completion_ids, batch.present, strict=True)
        ]

    def cut(
        self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking
    ) -> tuple[PerToken, Float[Tensor, "N T"]]:
        """What each cut reads, with nothing hidden and with its span hidden."""
        forward = self.forward
        before, after = torch.zeros(batch.present.shape), torch.zeros(len(cuts), batch.present.shape[1])
        # A row costs what it and the suffixes behind its cuts are long.
        costs = torch.zeros(len(batch), dtype=torch.long)
        for cut in cuts:
            costs[cut.row] += cut.last - cut.start
        cut_rows = costs.nonzero().flatten()
        cut_rows = cut_rows[forward.ranks.share((costs + batch.lengths())[cut_rows])]
        for picked in (
            micro_batches(batch.rows(cut_rows), forward.tokens_per_micro_batch) if len(cut_rows) else ()
        ):
            rows = cut_rows[picked]
            row_index = {row: index for index, row in enumerate(integers(rows))}
            indices = [index for index, cut in enumerate(cuts) if cut.row in row_index]
            moved = [replace(cuts[index], row=row_index[cuts[index].row]) for index in indices]
            micro = batch.rows(rows).to(self.policy.device)
            intact, hidden = read_cuts(
                self.policy,
                micro,
                moved,
                masking=masking,
                temperature=forward.temperature,
                logit_chunk=forward.logit_chunk,
            )
            width = micro.present.shape[1]
            before[rows, :width] = intact.cpu()
            after[indices, :width] = hidden.cpu()
        forward.ranks.all_reduce(before, after)
        return before, after

    def importance(
        self, batch: RolloutBatch, firsts: Sequence[int], signal: Literal["gradient", "attention"]
    ) -> PerToken:
        """What the score of each completion from a token on owes to its tokens."""
        forward, out = self.forward, torch.zeros(batch.present.shape)
        local = forward.ranks.share(batch.lengths()).nonzero().flatten()
        for picked in micro_batches(batch.rows(local), forward.tokens_per_micro_batch) if len(local) else ():
            rows = local[picked]
            micro = batch.rows(rows).to(self.policy.device)
            read_from = [firsts[row] for row in integers(rows)]
            if signal == "gradient":
                importance = gradient_times_embedding(
                    self.policy,
                    micro,
                    read_from,
                    temperature=forward.temperature,
                    logit_chunk=forward.logit_chunk,
                )
            else:
                importance = attention_received(self.policy, micro, read_from)
            out[rows, : importance.shape[1]] = importance.cpu()
        forward.ranks.all_reduce(out)
        return out

    def _scores(self, batch: RolloutBatch) -> TokenScores:
        return self.forward.score(self.policy, batch, self.forward.ranks.share(batch.lengths()))


def policy_scorer(policy: LanguageModel, settings: UpdateSettings, ranks: Ranks = ALONE) -> PolicyScorer:
    """A policy's scorer with the passes that a run's settings describe."""
    # The same for policy and reference, which are compared.
    sharing = "never" if obstacle(policy) else settings.shared_prefix
    return PolicyScorer(
        policy=policy,
        forward=ForwardSettings(
            temperature=settings.temperature,
            logit_chunk=settings.logit_chunk,
            tokens_per_micro_batch=settings.tokens_per_micro_batch,
            prefix_sharing=sharing,
            tokens_per_call=settings.tokens_per_call or TOKENS_PER_CALL,
            ranks=ranks,
        ),
    )
