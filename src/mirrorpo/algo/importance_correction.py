"""The sampler is not quite the old policy; what that does to a gradient, and a cure.

It has other kernels, another precision, other batch shapes; or it is an earlier policy, or a coarser one, on
purpose (`rollout.lag`, `rollout.coarse`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import Assembly
from mirrorpo.core.shapes import PerToken, TokenMask

Level = Literal["token", "segment", "geometric", "sequence"]
Rule = Literal["truncate", "mask"]


def log_ratio(old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
    """log pi_old - log mu of each trained token, without gradient; zero elsewhere."""
    return masked(old_logprobs.detach() - sampler_logprobs, mask)


def sampler_ratio(old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
    """pi_old / mu of each trained token, without gradient; one elsewhere.

    Value: exactly 1 where the two agree. Over tokens of the sampler its mean is 1, unless a cut
    distribution was sampled (`rollout.top_p` below 1).
    """
    return log_ratio(old_logprobs, sampler_logprobs, mask).exp()


@dataclass(frozen=True, kw_only=True, slots=True)
class NoCorrection:
    """Nothing is corrected: every weight is one. A run drops it, as if there were none.

    Example:
        >>> NoCorrection()(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
        tensor([[1., 1.]])
    """

    def log_weight(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        """Zero."""
        return torch.zeros_like(old_logprobs)

    def __call__(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        return torch.ones_like(old_logprobs)

    def keeps(
        self, logprobs: PerToken, sampler_logprobs: PerToken, advantages: PerToken, mask: TokenMask
    ) -> TokenMask:
        """All of them."""
        return torch.ones_like(mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedImportance:
    """Truncated importance sampling: credit by how much more often the old policy samples a token, capped.

        c_t = min( pi_old(y_t) / mu(y_t),  cap )

    with mu the sampler; `policy_loss` multiplies the credit by it and leaves the divergence alone. It is
    `BoundedImportance` of level token and rule truncate, under its first name.

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
        return _sampler_requirement(f"{group}=truncated", group, assembly)

    def log_weight(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        """Of each token."""
        return log_ratio(old_logprobs, sampler_logprobs, mask)

    def __call__(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        return sampler_ratio(old_logprobs, sampler_logprobs, mask).clamp(max=self.cap)

    def keeps(
        self, logprobs: PerToken, sampler_logprobs: PerToken, advantages: PerToken, mask: TokenMask
    ) -> TokenMask:
        """All of them."""
        return torch.ones_like(mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundedImportance:
    """Credit weighed by pi_old / mu at a level, under a rule, between two bounds.

        token       w_t = pi_old(y_t) / mu(y_t)
        segment     w_t = product of pi_old / mu over the `segment_tokens` tokens that t is among
        sequence    w_t = product of pi_old / mu over the completion
        geometric   w_t = (product of pi_old / mu over the completion)^(1/n),  n trained tokens
        truncate    c_t = min( max( w_t, low ), high )
        mask        c_t = w_t  if low <= w_t <= high,  else 0

    With `completion_bound`, c_t is also 0 where the token's advantage is negative and its completion's mean
    of log mu - log pi, pi the policy of the update, is above the bound.

    Value: exactly 1 where sampler and old policy agree, since low <= 1 <= high. Gradient: none.

    Bias, of the expected credit of completions of mu against that of completions of pi_old, without bounds:
    sequence has none, and a variance that grows exponentially with the length. token corrects the choice at t
    and leaves the states that mu visits and the reward that mu goes on to. segment lies between: of one token
    it is token, of the longest completion sequence. geometric is the expectation of neither; it is a soft
    measure of how far a completion is off, whatever its length. A bound above shrinks what it acts on and
    bounds the variance, one below (truncate) enlarges it, and mask leaves it out: all three bias. What is
    left out stays in the loss's denominator.

    Attributes:
        level: of the weight.
        rule: beyond the bounds.
        low: the lower bound, in [0, 1]; 0 is none.
        high: the upper one, at least 1; None is none.
        segment_tokens: of the level segment, tokens of the completion from its start; None for other levels.
        completion_bound: nats a token, at least 0; None leaves no completion out.

    Example:
        >>> import torch
        >>> old, sampler = torch.tensor([[0.5, 0.5, 0.4]]).log(), torch.tensor([[0.5, 0.4, 0.1]]).log()
        >>> band = BoundedImportance(
        ...     level="token", rule="mask", low=0.5, high=2.0, segment_tokens=None, completion_bound=None
        ... )
        >>> band(old, sampler, torch.ones(1, 3, dtype=torch.bool))
        tensor([[1.0000, 1.2500, 0.0000]])

    References:
        truncate: Yao et al. 2025 (TIS), https://fengyao.notion.site/off-policy-rl; sequence and geometric,
        and masks of them: Liu, Li et al. 2025, https://richardli.xyz/rl-collapse; mask of tokens in a band:
        Ling Team 2025 (IcePop), https://arxiv.org/abs/2510.18855; `completion_bound`: DeepSeek-AI 2025
        (DeepSeek-V3.2, off-policy sequence masking), https://arxiv.org/abs/2512.02556
    """

    level: Level
    rule: Rule
    low: float
    high: float | None
    segment_tokens: int | None
    completion_bound: float | None

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self._most >= 1):
            raise ValueError(
                f"importance_correction.low={self.low}, high={self.high}: 1 has to lie between them, or a "
                "sampler that agrees would be corrected; give low in [0, 1] and high of 1 or more, or null"
            )
        if self.rule == "mask" and self.low == self.high:
            raise ValueError(
                "importance_correction.low=1, high=1 with rule=mask leaves nearly every token out; widen them"
            )
        if (self.level == "segment") != (self.segment_tokens is not None):
            raise ValueError(
                f"importance_correction.segment_tokens={self.segment_tokens} with level={self.level}: "
                "level=segment needs a number of tokens, other levels null"
            )
        if self.segment_tokens is not None and self.segment_tokens < 1:
            raise ValueError(f"importance_correction.segment_tokens={self.segment_tokens}: give 1 or more")
        if self.completion_bound is not None and not self.completion_bound >= 0:
            raise ValueError(
                f"importance_correction.completion_bound={self.completion_bound}: give nats a token, 0 or "
                "more, or null"
            )

    @property
    def _most(self) -> float:
        return math.inf if self.high is None else self.high

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """There has to be a sampler."""
        return _sampler_requirement(f"{group}.level={self.level}", group, assembly)

    def log_weight(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        """The weight's logarithm before the bounds, on every trained token; zero elsewhere."""
        of_tokens = log_ratio(old_logprobs, sampler_logprobs, mask)
        if self.level == "token":
            return of_tokens
        if self.level == "segment":
            return masked(self._of_segments(of_tokens), mask)
        total = of_tokens.sum(dim=1, keepdim=True)
        if self.level == "geometric":
            total = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return masked(total.expand_as(of_tokens), mask)

    def __call__(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken:
        weight = self.log_weight(old_logprobs, sampler_logprobs, mask).exp()
        if self.rule == "truncate":
            return weight.clamp(min=self.low, max=self._most)
        return masked(weight, (weight >= self.low) & (weight <= self._most))

    def keeps(
        self, logprobs: PerToken, sampler_logprobs: PerToken, advantages: PerToken, mask: TokenMask
    ) -> TokenMask:
        """All tokens but those with a negative advantage in a completion that is too unlikely by now."""
        if self.completion_bound is None:
            return torch.ones_like(mask)
        fallen = -log_ratio(logprobs, sampler_logprobs, mask).sum(dim=1, keepdim=True)
        off = fallen / mask.sum(dim=1, keepdim=True).clamp(min=1) > self.completion_bound
        return ~(off & (advantages < 0))

    def _of_segments(self, of_tokens: PerToken) -> Tensor:
        # The sum of the segment that each token is in; the last one may be short.
        assert self.segment_tokens is not None
        size, width = min(self.segment_tokens, max(of_tokens.shape[1], 1)), of_tokens.shape[1]
        filled = torch.nn.functional.pad(of_tokens, (0, -width % size))
        sums = filled.reshape(len(filled), -1, size).sum(dim=2)
        return sums.repeat_interleave(size, dim=1)[:, :width]


def _sampler_requirement(setting: str, group: str, assembly: Assembly) -> Iterable[str]:
    if not assembly.rollout.samples:
        yield (
            f"{setting} with rollout=demonstrations: nothing was sampled, so no sampler's "
            f"probability can be corrected; set {group}=none"
        )
