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
from mirrorpo.core.tensors import integers, moved
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import read_completions
from mirrorpo.model.head import Head, HeadOutputs
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.reading import Reader
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
    """What a pass without gradient reads of a batch; all but the hidden states on the CPU.

    Attributes:
        logprobs: of the batch's tokens.
        entropy: of the distribution each token is drawn from, in nats.
        reader_output: the reader's number, zero without a reader.
        hidden: the last hidden states behind them, on the model's device; D = 0 unless they are kept.
    """

    logprobs: PerToken
    entropy: PerToken
    reader_output: PerToken
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
        reader: Reader | None = None,
        anchor_head: Head | None = None,
    ) -> TokenScores:
        """The batch under a model in eval mode.

        Args:
            model: which reads it.
            batch: what is read.
            local: rows that this rank passes through the network; it keeps the hidden states of these alone.
            keep_hidden: whether hidden states are kept.
            reader: one number a position from the model's and the anchor's log-probabilities.
            anchor_head: of the anchor, whose hidden states the batch holds; the reader needs it.
        """
        hidden = batch.anchor_hidden
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
                    reader=reader,
                    anchor_head=anchor_head,
                )
            order.append(rows)
            read.append(head_outputs)
            if keep_hidden:
                if hidden.shape[-1] == 0:
                    shape = (*batch.present.shape, states.shape[-1])
                    hidden = torch.zeros(shape, dtype=model.head_dtype(states), device=states.device)
                (there,) = moved([rows], hidden.device)
                hidden[there, : states.shape[1]] = states.to(hidden.dtype)
        logprobs, entropy, reader_output = _at_tokens(batch, order, read)
        self.ranks.all_reduce(logprobs, entropy, *([] if reader is None else [reader_output]))
        return TokenScores(logprobs=logprobs, entropy=entropy, reader_output=reader_output, hidden=hidden)

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
        local = forward.ranks.share(batch.lengths()).nonzero().flatten()
        order: list[Tensor] = []
        read: list[Tensor] = []
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
            order.append(rows)
            read.append(importance)
        for rows, importance in zip(order, moved(read, out.device), strict=True):
            out[rows, : importance.shape[1]] = importance
        forward.ranks.all_reduce(out)
        return out

    def _scores(self, batch: RolloutBatch) -> TokenScores:
        return self.forward.score(self.policy, batch, self.forward.ranks.share(batch.lengths()))


def _at_tokens(
    batch: RolloutBatch, order: Sequence[Tensor], read: Sequence[HeadOutputs]
) -> tuple[PerToken, PerToken, PerToken]:
    """Log-probabilities, entropies and a reader's numbers on the CPU, by one read; zero where nothing was
    read.

    Args:
        batch: whose rows were read.
        order: the rows of each micro-batch.
        read: what the head gave at their real tokens, in row order.
    """
    logprobs, entropy, reader_output = (torch.zeros(batch.present.shape) for _ in range(3))
    if read:
        parts = [
            torch.cat([part.logprobs for part in read]),
            torch.cat([part.entropy for part in read]),
            torch.cat([part.reader_output for part in read]),
        ]
        stacked = torch.stack(parts).float().cpu()
        rows = torch.cat([*order])
        row, column = batch.present[rows].nonzero(as_tuple=True)
        for table, values in zip((logprobs, entropy, reader_output), stacked, strict=True):
            table[rows[row], column] = values
    return logprobs, entropy, reader_output


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
