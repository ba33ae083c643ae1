"""Credit of each token: its completion's advantage, its weight, and what a penalty takes from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mirrorpo.core.batch import PromptMemory, RolloutBatch
from mirrorpo.core.masked import masked, mean_one
from mirrorpo.core.protocols import Roller, Scorer, SegmentCredit, TokenNormalisation
from mirrorpo.core.shapes import PerCompletion, PerToken, TokenMask
from mirrorpo.core.span import ScoredSpan
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.placement import token_credit


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCredit:
    """What each token of a rollout is credited with.

    Attributes:
        advantages: [B], of completions; of segment credit the mean size of a token's, with the sum's sign.
        weights: [B, T], mean one over each completion's trained tokens; of segment credit the size of each
            token's.
        spans: that were scored for the weights.
        signed: [B, T], credit of either sign in place of advantages times weights; None where it is those.
        segments: [B, T], segment credit, of which `signed` is made; None where there is none.
        divergence: [B, T], of the old policy, which `signed` has taken in; None where it has not.
        held: [B, T], the tokens that an entropy control holds in an update; None where it holds none.
        memory: what the advantage remembers of prompts from then on.
    """

    advantages: PerCompletion
    weights: PerToken
    spans: Sequence[ScoredSpan] = ()
    signed: PerToken | None = None
    segments: PerToken | None = None
    divergence: PerToken | None = None
    held: TokenMask | None = None
    memory: PromptMemory = field(default_factory=dict[str, Sequence[float]])

    def read(self, rows: Tensor, width: int) -> tuple[Tensor, PerToken]:
        """What the surrogate reads of some completions, [N, 1] or [N, width], and what multiplies it."""
        if self.signed is None:
            return self.advantages[rows][:, None], self.weights[rows][:, :width]
        signed = self.signed[rows][:, :width]
        return signed, torch.ones_like(signed)

    def acts(self, rows: Tensor) -> Tensor:
        """Which of some completions have a token with credit, or one that is held, [N]."""
        acts = self.advantages[rows] != 0 if self.signed is None else (self.signed[rows] != 0).any(dim=1)
        return acts if self.held is None else acts | self.held[rows].any(dim=1)


def segment_credit(
    part: SegmentCredit, batch: RolloutBatch, scorer: Scorer, roller: Roller, seed: int
) -> TokenCredit:
    """What a part that gives signed credit says of a rollout."""
    signed, spans = part.credit(batch, scorer, roller, seed)
    size = masked(signed.abs(), batch.mask)
    mean = size.sum(dim=1) / batch.mask.sum(dim=1).clamp(min=1)
    return TokenCredit(
        advantages=torch.where(signed.sum(dim=1) < 0, -mean, mean),
        weights=mean_one(size, batch.mask),
        spans=spans,
        signed=signed,
        segments=signed,
    )


def signed_credit(
    advantages: PerCompletion | PerToken,
    weights: PerToken,
    divergence: PerToken,
    mask: TokenMask,
    *,
    penalty: Penalty,
    normalisation: TokenNormalisation | None = None,
) -> PerToken:
    """Advantages with weights and what the penalty takes from them, as one number a token.

        A_t = w_t A_i - beta k_t               scope: credit
        A_t = w_t (A_i - beta k_t)             scope: loss

    with k_t as `divergence.placement` says. With a normalisation, centre m and scale s of A_i - beta k_t,
    A_i - m takes the place of A_i, and all is divided by s. Advantages of tokens take the place of A_i.

    Value: zero at tokens that are not trained. Gradient: none.
    """
    taken = penalty.beta * token_credit(divergence, mask, penalty.placement)
    of_tokens = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(taken)
    per_token = masked(of_tokens, mask)
    if normalisation is not None:
        centre, scale = normalisation(per_token - taken, mask)
        per_token, taken = (per_token - centre) / scale, taken / scale
    weighted = weights * per_token - taken if penalty.scope == "credit" else weights * (per_token - taken)
    return masked(weighted, mask)
