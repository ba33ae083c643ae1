"""The output head of an anchor that is a mixture of two models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mirrorpo.core.mixture import mixture
from mirrorpo.core.top import TopTokens, likeliest
from mirrorpo.model.head import Head


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedHead:
    """Last hidden states of two models, side by side, to log-probabilities of their mixture.

        log q = log( (1 - share) q_1 + share q_2 )

    Attributes:
        first: of q_1.
        second: of q_2.
        share: of q_2.
    """

    first: Head
    second: Head
    share: float

    @property
    def entries(self) -> int:
        """Numbers of the embeddings that a position is multiplied with."""
        return self.first.entries + self.second.entries

    @property
    def tables(self) -> int:
        """Both parts, what is made of each, and the mixture."""
        return 5

    def prepared(self) -> "MixedHead":
        """The same with embeddings cast once."""
        return replace(self, first=self.first.prepared(), second=self.second.prepared())

    def __call__(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        of_first, of_second = (head(states) for head, states in self._parts(hidden))
        return mixture(of_first, of_second, self.share)

    def logprobs_at(
        self, hidden: Float[Tensor, "N D"], ids: Int[Tensor, "N K"], known: TopTokens
    ) -> Float[Tensor, "N K"]:
        """As of `Head`; `known` has a column for each part."""
        of_first, of_second = (
            head.logprobs_at(states, ids, TopTokens(known.ids[:, [part]], known.logprobs[:, [part]]))
            for part, (head, states) in enumerate(self._parts(hidden))
        )
        return mixture(of_first, of_second, self.share)

    def likeliest(self, hidden: Float[Tensor, "N D"], k: int, logit_chunk: int) -> TopTokens:
        """The k likeliest tokens of the mixture, a chunk of positions at a time; without gradient."""
        head, height = self.prepared(), max(logit_chunk // self.tables, 1)
        with torch.no_grad():
            tables = (head(states) for states in hidden.split(height))
            chunks = [TopTokens.among(likeliest(log_q, k), log_q) for log_q in tables]
        return TopTokens(
            torch.cat([chunk.ids for chunk in chunks]), torch.cat([chunk.logprobs for chunk in chunks])
        )

    def _parts(self, hidden: Tensor) -> Sequence[tuple[Head, Tensor]]:
        width = self.first.projection.in_features
        return (self.first, hidden[:, :width]), (self.second, hidden[:, width:])
