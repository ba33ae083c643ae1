"""Centre and scale of a rollout's credit, over its trained tokens."""

from dataclasses import dataclass

from mirrorpo.core.masked import masked, masked_mean
from mirrorpo.core.shapes import PerToken, Scalar, TokenMask


@dataclass(frozen=True, kw_only=True, slots=True)
class Whitened:
    """Credit standardised over all trained tokens of the rollout.

        (A_t - mean A) / (std A + epsilon)

    Value: mean zero and, up to epsilon, variance one over tokens: long completions count for more of both, so
    credit that each group has centred is centred anew where right and wrong answers differ in length.
    Gradient: none. Bias: mean and std contain the completion's own reward.

    Attributes:
        epsilon: added to the standard deviation, outside the root; verl adds 1e-8 inside.
        ddof: 1 divides the squared deviations by one less than the number of tokens (verl), 0 or None by it.

    Example:
        >>> import torch
        >>> Whitened(epsilon=0.0)(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
        (tensor(2.), tensor(1.))

    References:
        Hu et al. 2025 (REINFORCE++), section 3, https://arxiv.org/abs/2501.03262
    """

    epsilon: float
    ddof: int | None = None

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"algo.token_normalisation.epsilon={self.epsilon}: give 0 or more")
        if self.ddof not in (None, 0, 1):
            raise ValueError(f"algo.token_normalisation.ddof={self.ddof}: give 0 or 1")

    def __call__(self, credit: PerToken, mask: TokenMask) -> tuple[Scalar, Scalar]:
        credit = credit.detach()
        centre = masked_mean(credit, mask)
        variance = masked_mean(masked(credit - centre, mask).square(), mask)
        if self.ddof:
            tokens = mask.sum()
            variance = variance * tokens / (tokens - self.ddof).clamp(min=1)
        scale = variance.sqrt() + self.epsilon
        # Equal credit everywhere leaves 0 / 0 when epsilon is 0.
        return centre, scale.clamp(min=1e-12)
