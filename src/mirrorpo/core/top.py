"""The likeliest tokens of a distribution."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopTokens:
    """Some tokens at each of N positions, and what they have under a model.

    Attributes:
        ids: ascending and distinct at each position.
        logprobs: of them.
    """

    ids: Int[Tensor, "N K"]
    logprobs: Float[Tensor, "N K"]

    @classmethod
    def among(cls, ids: Int[Tensor, "N K"], logprobs: Float[Tensor, "N V"]) -> "TopTokens":
        """The tokens with their entries of a table over the vocabulary, without gradient."""
        # Of no token it is a tensor of its own: a view would keep the table.
        table = logprobs.detach()
        return cls(ids, table.gather(1, ids) if ids.shape[1] else table.new_empty(len(table), 0))


def likeliest(logprobs: Tensor, k: int) -> Tensor:
    """Ids of the k likeliest tokens, or of all where there are no more, ascending; without gradient.

    Example:
        >>> likeliest(torch.tensor([0.1, 0.6, 0.3]).log(), 2)
        tensor([1, 2])
    """
    if k == 0:
        return torch.empty(*logprobs.shape[:-1], 0, dtype=torch.long, device=logprobs.device)
    ids = logprobs.detach().topk(min(k, logprobs.shape[-1]), dim=-1, sorted=False).indices
    return ids.sort(dim=-1).values
