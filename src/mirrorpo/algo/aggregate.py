"""Per-token losses to a scalar: which tokens share a denominator.

Each `denominator` is a count over the full optimiser window. Passed to every micro-batch it makes
the sum over micro-batches equal the loss of the full window; left out, the batch at hand is the
window. A window without a trained token has loss zero, with a gradient of zero.
"""

from dataclasses import dataclass

import torch

from mirrorpo.core.masked import masked_sum
from mirrorpo.core.shapes import PerToken, Scalar, TokenMask


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMean:
    """Mean over all trained tokens of the window: long completions weigh more.

        L = sum_{i,t} m_it l_it / sum_{i,t} m_it

    Gradient: that of l_it over the number of trained tokens.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> TokenMean()(torch.tensor([[6.0, 9.0], [1.0, 2.0]]), mask)
        tensor(3.)

    References:
        Yu et al. 2025 (DAPO, token-level loss), https://arxiv.org/abs/2503.14476
    """

    def denominator(self, mask: TokenMask) -> Scalar:
        """Trained tokens, at least 1."""
        return mask.sum().clamp(min=1).to(torch.float32)

    def __call__(self, per_token: PerToken, mask: TokenMask, denominator: Scalar | None = None) -> Scalar:
        total = masked_sum(per_token, mask)
        return total / (self.denominator(mask) if denominator is None else denominator)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceMean:
    """Mean over completions of each completion's mean over its trained tokens.

        L = (1/B) sum_i (1/|o_i|) sum_t m_it l_it

    B counts the completions that have a trained token, |o_i| the trained tokens of completion i.
    Gradient: a token of a short completion gets more than one of a long completion.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> SequenceMean()(torch.tensor([[6.0, 9.0], [1.0, 2.0]]), mask)
        tensor(3.7500)

    References:
        Shao et al. 2024 (GRPO), section 4.1, https://arxiv.org/abs/2402.03300
    """

    def denominator(self, mask: TokenMask) -> Scalar:
        """Completions with a trained token, at least 1."""
        return _trained_completions(mask)

    def __call__(self, per_token: PerToken, mask: TokenMask, denominator: Scalar | None = None) -> Scalar:
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
        total = masked_sum(per_token / lengths, mask)
        return total / (self.denominator(mask) if denominator is None else denominator)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceSum:
    """Mean over completions of each completion's sum over its trained tokens.

        L = (1/B) sum_{i,t} m_it l_it

    B counts the completions that have a trained token. Gradient: that of the log-probability of the
    full completion; every token weighs the same, and long completions weigh more.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> SequenceSum()(torch.tensor([[6.0, 9.0], [1.0, 2.0]]), mask)
        tensor(4.5000)

    References:
        Ahmadian et al. 2024 (RLOO), section 3, https://arxiv.org/abs/2402.14740
    """

    def denominator(self, mask: TokenMask) -> Scalar:
        """Completions with a trained token, at least 1."""
        return _trained_completions(mask)

    def __call__(self, per_token: PerToken, mask: TokenMask, denominator: Scalar | None = None) -> Scalar:
        total = masked_sum(per_token, mask)
        return total / (self.denominator(mask) if denominator is None else denominator)


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedLength:
    """Sum over trained tokens divided by a constant number of tokens per completion.

        L = (1/(B length)) sum_{i,t} m_it l_it

    B counts all completions of the window, trained or not, so the scale never depends on what was
    sampled. Gradient: every token weighs the same in every window.

    Attributes:
        length: tokens a completion is counted as; Dr. GRPO takes the largest allowed length.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> FixedLength(length=4)(torch.tensor([[6.0, 9.0], [1.0, 2.0]]), mask)
        tensor(1.1250)

    References:
        Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783
    """

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"algo.aggregate.length={self.length}: a completion has at least one token")

    def denominator(self, mask: TokenMask) -> Scalar:
        """Completions times `length`."""
        return torch.tensor(float(max(mask.shape[0], 1) * self.length), device=mask.device)

    def __call__(self, per_token: PerToken, mask: TokenMask, denominator: Scalar | None = None) -> Scalar:
        total = masked_sum(per_token, mask)
        return total / (self.denominator(mask) if denominator is None else denominator)


def _trained_completions(mask: TokenMask) -> Scalar:
    return mask.any(dim=1).sum().clamp(min=1).to(torch.float32)
