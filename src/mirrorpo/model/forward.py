"""From a batch of completions to per-token quantities: the only temperature, and beside `prefix` the only
shift by one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerPosition, PerToken
from mirrorpo.model.head import Head, HeadOutputs, Reader, read_positions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prefix import shared_hidden


def full_sequences(batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts and completions in one: ids, presence and positions, each [B, S + T]."""
    ids = torch.cat([batch.prompt_ids, batch.completion_ids], dim=1)
    present = torch.cat([batch.prompt_present, batch.present], dim=1)
    # Left padding must not shift the positions.
    return ids, present, (present.cumsum(dim=1) - 1).clamp(min=0)


def completion_hidden(model: LanguageModel, batch: RolloutBatch) -> Float[Tensor, "B T D"]:
    """The last hidden state that predicts each completion token: that of the position before it."""
    ids, present, positions = full_sequences(batch)
    hidden = model.hidden(ids, present, positions)
    width = batch.completion_ids.shape[1]
    return hidden[:, -width - 1 : -1]


def read_completions(
    model: LanguageModel,
    batch: RolloutBatch,
    *,
    temperature: float,
    logit_chunk: int,
    rows_per_forward: Sequence[int] = (),
    reader: Reader | None = None,
    anchor_head: Head | None = None,
) -> tuple[HeadOutputs, Float[Tensor, "B T D"]]:
    """Readings at every real completion token (N of them, in row order), and the hidden states behind them.

    Pads are never projected to the vocabulary. With a reader, the anchor's hidden states are taken
    from `batch.anchor_hidden`. With pieces, each distinct prompt is computed once (`prefix.shared_hidden`).
    """
    hidden = (
        shared_hidden(model, batch, rows_per_forward) if rows_per_forward else completion_hidden(model, batch)
    )
    head_outputs = read_positions(
        model.head(temperature),
        hidden[batch.present],
        batch.completion_ids[batch.present],
        logit_chunk=logit_chunk,
        reader=reader,
        anchor_head=anchor_head,
        anchor_hidden=batch.anchor_hidden[batch.present] if reader is not None else None,
    )
    return head_outputs, hidden


def per_token(values: PerPosition, batch: RolloutBatch) -> PerToken:
    """Values at the real tokens, in row order, as a [B, T] tensor with zeros elsewhere."""
    # masked_scatter keeps the gradient and needs no index arithmetic.
    empty = values.new_zeros(batch.present.shape)
    return empty.masked_scatter(batch.present, values)
