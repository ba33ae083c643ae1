"""Passes over a rollout without gradient: log-probabilities, and what a weighting asks of the old policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.tensors import integers, moved
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.core.top import TopTokens, likeliest
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.model.cost import cutting, reading, row_by_row
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import read_completions
from mirrorpo.model.head import HeadOutputs
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.saliency import attention_received, gradient_times_embedding
from mirrorpo.train.budget import PassMeter
from mirrorpo.train.micro_batch import (
    TOKENS_PER_CALL,
    MicroBatch,
    PrefixSharing,
    micro_batches,
    plan_micro_batches,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """What a pass without gradient reads of a batch; all but the hidden states on the CPU.

    Attributes:
        logprobs: of the batch's tokens.
        entropy: of the distribution each token is drawn from, in nats.
        hidden: the last hidden states behind them, on the model's device; D = 0 unless they are kept.
        top_ids: the likeliest tokens there, ascending, on the model's device; K = 0 unless they are kept.
        top_logprobs: of them.
    """

    logprobs: PerToken
    entropy: PerToken
    hidden: Float[Tensor, "B T D"]
    top_ids: Int[Tensor, "B T K"]
    top_logprobs: Float[Tensor, "B T K"]

    def with_top(self, k: int) -> "TokenScores":
        """The same with fewer of the likeliest tokens, the k likeliest of those that were kept."""
        if k >= self.top_ids.shape[-1]:
            return self
        columns = likeliest(self.top_logprobs, k)
        return replace(
            self, top_ids=self.top_ids.gather(-1, columns), top_logprobs=self.top_logprobs.gather(-1, columns)
        )

    def of_anchor(self) -> dict[str, Tensor]:
        """What a batch holds of a model that is the anchor."""
        return {
            "anchor_logprobs": self.logprobs,
            "anchor_hidden": self.hidden,
            "anchor_top_ids": self.top_ids,
            "anchor_top_logprobs": self.top_logprobs,
        }


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
        meter: counts the passes of all of them.
    """

    temperature: float
    logit_chunk: int
    tokens_per_micro_batch: int
    prefix_sharing: PrefixSharing
    tokens_per_call: int
    ranks: Ranks
    meter: PassMeter

    def score(
        self,
        model: LanguageModel,
        batch: RolloutBatch,
        local: Bool[Tensor, " B"],
        *,
        keep_hidden: bool = False,
        keep_top: int = 0,
        of_all_ranks: Int[Tensor, " N"] | None = None,
    ) -> TokenScores:
        """The batch under a model in eval mode.

        Args:
            model: which reads it.
            batch: what is read.
            local: rows that this rank passes through the network; it keeps the hidden states, and the
                likeliest tokens, of these alone.
            keep_hidden: whether hidden states are kept.
            keep_top: how many of the likeliest tokens are.
            of_all_ranks: rows that the ranks together pass through the network; None is all of the batch.
        """
        tokens = reading(batch, torch.arange(len(batch)) if of_all_ranks is None else of_all_ranks)
        self.meter.add(model, tokens)
        hidden, top = batch.anchor_hidden, (batch.anchor_top_ids, batch.anchor_top_logprobs)
        local_rows = local.nonzero().flatten()
        order: list[Tensor] = []
        read: list[HeadOutputs] = []
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
                    top=keep_top,
                )
            order.append(rows)
            read.append(head_outputs)
            if keep_top:
                top = _kept_top(top, head_outputs.top, rows, micro)
            if keep_hidden:
                hidden = _kept_hidden(hidden, states, rows, model.head_dtype(states))
        logprobs, entropy = _at_tokens(batch, order, read)
        self.ranks.all_reduce(logprobs, entropy)
        return TokenScores(
            logprobs=logprobs, entropy=entropy, hidden=hidden, top_ids=top[0], top_logprobs=top[1]
        )

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
        forward.meter.add(self.policy, cutting(batch, cuts, masking))
        before, after = torch.zeros(batch.present.shape), torch.zeros(len(cuts), batch.present.shape[1])
        # A row costs what it and the suffixes behind its cuts are long.
        costs = torch.zeros(len(batch), dtype=torch.long)
        for cut in cuts:
            costs[cut.row] += cut.last - cut.start
        cut_rows = costs.nonzero().flatten()
        cut_rows = cut_rows[forward.ranks.share((costs + batch.lengths())[cut_rows])]
        read: list[tuple[Tensor, list[int]]] = []
        outputs: list[Tensor] = []
        for picked in (
            micro_batches(batch.rows(cut_rows), forward.tokens_per_micro_batch) if len(cut_rows) else ()
        ):
            rows = cut_rows[picked]
            row_index = {row: index for index, row in enumerate(integers(rows))}
            indices = [index for index, cut in enumerate(cuts) if cut.row in row_index]
            shifted = [replace(cuts[index], row=row_index[cuts[index].row]) for index in indices]
            micro = batch.rows(rows).to(self.policy.device)
            outputs += read_cuts(
                self.policy,
                micro,
                shifted,
                masking=masking,
                temperature=forward.temperature,
                logit_chunk=forward.logit_chunk,
            )
            read.append((rows, indices))
        outputs = moved(outputs, before.device)
        for (rows, indices), intact, hidden in zip(read, outputs[::2], outputs[1::2], strict=True):
            before[rows, : intact.shape[1]] = intact
            after[indices, : hidden.shape[1]] = hidden
        forward.ranks.all_reduce(before, after)
        return before, after

    def importance(
        self, batch: RolloutBatch, firsts: Sequence[int], signal: Literal["gradient", "attention"]
    ) -> PerToken:
        """What the score of each completion from a token on owes to its tokens."""
        forward, out = self.forward, torch.zeros(batch.present.shape)
        by_gradient = signal == "gradient"
        tokens = row_by_row(batch, firsts if by_gradient else None)
        forward.meter.add(self.policy, tokens, "inputs" if by_gradient else "none")
        local = forward.ranks.share(batch.lengths()).nonzero().flatten()
        order: list[Tensor] = []
        read: list[Tensor] = []
        for picked in micro_batches(batch.rows(local), forward.tokens_per_micro_batch) if len(local) else ():
            rows = local[picked]
            micro = batch.rows(rows).to(self.policy.device)
            read_from = [firsts[row] for row in integers(rows)]
            if by_gradient:
                importance = gradient_times_embedding(
                    self.policy,
                    micro,
                    read_from,
                    temperature=forward.temperature,
                    logit_chunk=forward.logit_chunk,
                )
            else:
                importance = attention_received(self.policy, micro, read_from)
            order.append(rows)
            read.append(importance)
        for rows, importance in zip(order, moved(read, out.device), strict=True):
            out[rows, : importance.shape[1]] = importance
        forward.ranks.all_reduce(out)
        return out

    def _scores(self, batch: RolloutBatch) -> TokenScores:
        return self.forward.score(self.policy, batch, self.forward.ranks.share(batch.lengths()))


def _kept_hidden(kept: Tensor, states: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    # The table [B, T, D] with the states of some rows; the first of them decides D and device.
    if kept.shape[-1] == 0:
        kept = torch.zeros((*kept.shape[:2], states.shape[-1]), dtype=dtype, device=states.device)
    (there,) = moved([rows], kept.device)
    kept[there, : states.shape[1]] = states.to(kept.dtype)
    return kept


def _kept_top(
    kept: tuple[Tensor, Tensor], top: TopTokens, rows: Tensor, micro: RolloutBatch
) -> tuple[Tensor, Tensor]:
    # The tables [B, T, K] with the entries of some rows; the first of them decides K, type and device.
    ids, logprobs = kept
    if ids.shape[-1] == 0:
        shape = (*ids.shape[:2], top.ids.shape[1])
        ids, logprobs = top.ids.new_zeros(shape), top.logprobs.new_zeros(shape)
    (there,) = moved([rows], ids.device)
    row, column = micro.located().present
    ids[there[row], column], logprobs[there[row], column] = top.ids, top.logprobs
    return ids, logprobs


def _at_tokens(
    batch: RolloutBatch, order: Sequence[Tensor], read: Sequence[HeadOutputs]
) -> tuple[PerToken, PerToken]:
    """Log-probabilities and entropies on the CPU, by one read; zero where nothing was read.

    Args:
        batch: whose rows were read.
        order: the rows of each micro-batch.
        read: what the head gave at their real tokens, in row order.
    """
    logprobs, entropy = torch.zeros(batch.present.shape), torch.zeros(batch.present.shape)
    if read:
        parts = [torch.cat([part.logprobs for part in read]), torch.cat([part.entropy for part in read])]
        both = torch.stack(parts).float().cpu()
        rows = torch.cat([*order])
        row, column = batch.present[rows].nonzero(as_tuple=True)
        logprobs[rows[row], column], entropy[rows[row], column] = both
    return logprobs, entropy


def policy_scorer(
    policy: LanguageModel, settings: UpdateSettings, ranks: Ranks = ALONE, meter: PassMeter | None = None
) -> PolicyScorer:
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
            meter=PassMeter() if meter is None else meter,
        ),
    )
