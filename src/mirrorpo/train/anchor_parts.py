"""The two parts of an anchor that is a mixture, read by a pass each, as one anchor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.mixture import mixture
from mirrorpo.core.tensors import moved
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.model.head import Head
from mirrorpo.model.mixed_head import MixedHead
from mirrorpo.train.old_policy import TokenScores


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorPart:
    """What a model that is the anchor, or a part of it, read.

    Attributes:
        scores: of the rollout.
        head: where hidden states were kept.
    """

    scores: TokenScores
    head: Head | None


def mixed_head(parts: Sequence[AnchorPart], share: float) -> MixedHead | None:
    """The head of the mixture; None where no hidden states were kept."""
    first, second = (part.head for part in parts)
    if first is None or second is None:
        return None
    return MixedHead(first=first, second=second, share=share)


def of_mixture(
    parts: Sequence[AnchorPart],
    batch: RolloutBatch,
    local: Bool[Tensor, " B"],
    penalty: Penalty,
    logit_chunk: int,
) -> dict[str, Tensor]:
    """What a batch holds of the mixture: hidden states side by side, or its likeliest tokens.

    Where hidden states are kept for a few tokens of the policy, `anchor_top_*` are the drawn token under
    each part: what stands for the parts' normalisers.

    Args:
        parts: both, as they were read.
        batch: the rollout.
        local: the rows whose hidden states this rank has.
        penalty: whose divergence is read.
        logit_chunk: positions whose logits exist at once.
    """
    first, second = (part.scores for part in parts)
    fields = {"anchor_logprobs": mixture(first.logprobs, second.logprobs, penalty.share)}
    if not penalty.scores_hidden:
        return fields
    hidden = torch.cat([first.hidden, second.hidden], dim=-1)
    if penalty.reads_hidden:
        of_parts = torch.stack([first.logprobs, second.logprobs], dim=-1)
        ids = batch.completion_ids[..., None].expand_as(of_parts)
        few = penalty.reads == "top"
        known = {"anchor_top_ids": ids, "anchor_top_logprobs": of_parts} if few else {}
        return {**fields, "anchor_hidden": hidden, **known}
    head = mixed_head(parts, penalty.share)
    rows, columns = (batch.present & local[:, None]).nonzero(as_tuple=True)
    if head is None or len(rows) == 0:
        return fields
    there = moved([rows, columns], hidden.device)
    top = head.likeliest(hidden[there[0], there[1]], penalty.anchor_top, logit_chunk)
    shape = (*batch.present.shape, top.ids.shape[1])
    ids, logprobs = top.ids.new_zeros(shape), top.logprobs.new_zeros(shape)
    ids[there[0], there[1]], logprobs[there[0], there[1]] = top.ids, top.logprobs
    return {**fields, "anchor_top_ids": ids, "anchor_top_logprobs": logprobs}
