"""The sampler is not quite the old policy; what that does to a gradient, and a cure.

It has other kernels, another precision, other batch shapes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Assembly
from mirrorpo.core.shapes import PerToken, TokenMask


def sampler_ratio(old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
    """pi_old / mu of each trained token, without gradient; one elsewhere.

    Value: exactly 1 where the two agree. Over tokens of the sampler its mean is 1, unless a cut
    distribution was sampled (`rollout.top_p` below 1).
    """
    return masked(old_logprobs.detach() - sampler_logprobs, mask).exp()


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedImportance:
    """Truncated importance sampling: credit by how much more often the old policy samples a token, capped.

        c_t = min( pi_old(y_t) / mu(y_t),  cap )

    with mu the sampler; `policy_loss` multiplies the credit by it and leaves the divergence alone.

    Value: in [0, cap], exactly 1 where sampler and trainer agree. Below the cap the gradient's
    expectation is that of tokens sampled from the old policy; above it, smaller, and its variance is
    bounded. Gradient: none, it is a constant of the rollout.

    Attributes:
        cap: largest factor, at least 1.

    Example:
        >>> import torch
        >>> old, sampler = torch.tensor([[0.5, 0.5, 0.4]]).log(), torch.tensor([[0.5, 0.4, 0.1]]).log()
        >>> TruncatedImportance(cap=2.0)(old, sampler, torch.ones(1, 3, dtype=torch.bool))
        tensor([[1.0000, 1.2500, 2.0000]])

    References:
        Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (TIS),
        https://fengyao.notion.site/off-policy-rl
    """

    cap: float

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(
                f"importance_correction.cap={self.cap}: a cap below 1 would shrink the credit of tokens "
                "without mismatch; give 1 or more"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """There has to be a sampler."""
        if not assembly.rollout.samples:
            yield (
                f"{group}=truncated with rollout=demonstrations: nothing was sampled, so no sampler's "
                f"probability can be corrected; set {group}=null"
            )

    def __call__(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        return sampler_ratio(old_logprobs, sampler_logprobs, mask).clamp(max=self.cap)
