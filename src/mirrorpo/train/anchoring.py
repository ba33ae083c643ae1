"""The penalty's divergence at a micro-batch's tokens, from what is kept of the anchor."""

from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import ReadsTop
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.top import TopTokens
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.top import joined
from mirrorpo.model.anchored import AnchorReader, AnchorTop, PolicyTop, TopReader, VocabularyReader
from mirrorpo.model.forward import per_token
from mirrorpo.model.head import Head, HeadOutputs
from mirrorpo.model.mixed_head import MixedHead


def anchor_reader(
    penalty: Penalty, batch: RolloutBatch, anchor_head: Head | MixedHead | None
) -> AnchorReader | None:
    """What the head reads of policy and anchor together; None where the drawn tokens alone are read.

    Args:
        penalty: whose divergence is read.
        batch: with what was kept of the anchor.
        anchor_head: of the anchor, where its hidden states were kept.
    """
    present = batch.located().present
    if isinstance(penalty.divergence, ReadsTop):
        return _top_reader(penalty.divergence, batch, anchor_head)
    if anchor_head is None:
        return None
    unread = batch.anchor_logprobs.new_zeros(())

    def reader(log_p: Tensor, log_q: Tensor) -> Tensor:
        return penalty(log_p, log_q, unread)

    return VocabularyReader(
        reader=reader,
        gradient=penalty.gradient,
        head=anchor_head.prepared(),
        hidden=batch.anchor_hidden[present],
    )


def _top_reader(
    divergence: ReadsTop, batch: RolloutBatch, anchor_head: Head | MixedHead | None
) -> AnchorReader | None:
    present = batch.located().present
    if divergence.k == 0:
        return None
    kept = TopTokens(batch.anchor_top_ids[present], batch.anchor_top_logprobs[present])
    if anchor_head is None:
        tokens = AnchorTop(kept)
    else:
        # A token whose log-probability is known stands for the anchor's normaliser, of a mixture for each
        # part's (`anchor_parts.of_mixture`).
        drawn = TopTokens(batch.completion_ids[present][:, None], batch.anchor_logprobs[present][:, None])
        known = kept if isinstance(anchor_head, MixedHead) else drawn
        tokens = PolicyTop(
            k=divergence.k, head=anchor_head.prepared(), hidden=batch.anchor_hidden[present], known=known
        )
    return TopReader(reader=divergence.inside, gradient=divergence.inside_gradient, tokens=tokens)


def divergence_at_tokens(
    penalty: Penalty, head_outputs: HeadOutputs, logprobs: PerToken, old: PerToken, batch: RolloutBatch
) -> PerToken:
    """The divergence of each token.

    Args:
        penalty: whose divergence it is.
        head_outputs: what the head read at the real tokens.
        logprobs: of the tokens under the policy, with gradient.
        old: under the policy that they were drawn from.
        batch: what was read.
    """
    read = per_token(head_outputs.reader_output, batch)
    if penalty.reads not in ("sampled", "top"):
        return read
    # Masked before the divergence sees them: an unread NaN must not reach a gradient.
    three = [masked(values, batch.mask) for values in (logprobs, batch.anchor_logprobs, old)]
    if not isinstance(penalty.divergence, ReadsTop):
        return masked(penalty(*three), batch.mask)
    drawn = batch.completion_ids[batch.located().present]
    covered = (head_outputs.top.ids == drawn[:, None]).any(dim=1)
    outside = masked(penalty.divergence.outside(*three), batch.mask)
    return joined(read, per_token(covered.to(read.dtype), batch) > 0, outside)
