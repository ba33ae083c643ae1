"""A mixture of two distributions, from their log-probabilities."""

import math

import torch
from torch import Tensor


def mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Log-probabilities of (1 - share) q_1 + share q_2: probabilities are mixed, not logits.

    Value: where the two are equal it is them to the bit, as it is the first at share 0 and the second at 1.

    Args:
        first: log q_1, of any tokens.
        second: log q_2, of the same.
        share: of the second, in [0, 1].

    Example:
        >>> mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.1, 0.9]).log(), 0.25).exp()
        tensor([0.4000, 0.6000])
    """
    if share in (0, 1):
        return second if share else first
    mixed = torch.logaddexp(first + math.log1p(-share), second + math.log(share))
    # A policy that both parts still are is at no distance from them.
    return torch.where(first == second, first, mixed)
