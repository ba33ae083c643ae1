"""From a batch of completions to per-token quantities.

Here is the only temperature, and beside `prefix` the only shift by one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerPosition, PerToken
from mirrorpo.model.anchored import AnchorReader
from mirrorpo.model.head import HeadOutputs, read_positions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prefix import shared_hidden


def full_sequences(batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Each prompt with its completion behind it.

    Returns:
        Ids, presence and positions, each [B, S + T].
    """
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
    reader: AnchorReader | None = None,
    top: int = 0,
    entropy_gradient: bool = False,
) -> tuple[HeadOutputs, Float[Tensor, "B T D"]]:
    """What the head gives at every real completion token; pads are never projected to the vocabulary.

    Args:
        model: read in the mode it is in.
        batch: what is read.
        temperature: of the sampler.
        logit_chunk: positions whose logits exist at a time.
        rows_per_forward: rows of each forward pass, each distinct prompt computed once
            (`prefix.shared_hidden`); empty is one pass over full sequences.
        reader: of policy and anchor together, at the batch's real tokens in row order.
        top: how many of the likeliest tokens are given, without a reader.
        entropy_gradient: whether the entropy has a gradient.

    Returns:
        The outputs at N tokens in row order, and the hidden states behind them.
    """
    if rows_per_forward:
        hidden = shared_hidden(model, batch, rows_per_forward)
    else:
        hidden = completion_hidden(model, batch)
    # What a mask would pick, in its order; but a mask has to be counted on its device first.
    present = batch.located().present
    head_outputs = read_positions(
        model.head(temperature),
        hidden[present],
        batch.completion_ids[present],
        logit_chunk=logit_chunk,
        reader=reader,
        top=top,
        entropy_gradient=entropy_gradient,
    )
    return head_outputs, hidden


def per_token(values: PerPosition, batch: RolloutBatch) -> PerToken:
    """Values at the real tokens, in row order, as a [B, T] tensor with zeros elsewhere."""
    return values.new_zeros(batch.present.shape).index_put(batch.located().present, values)
