"""How an algorithm treats its rollouts before the update: overlong shaping, dynamic sampling, masking."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.masked import group_mean
from mirrorpo.core.shapes import GroupIds, PerCompletion


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRule:
    """DAPO's three switches on rollouts; all off is plain sampling.

    Attributes:
        dynamic_sampling: train only on groups whose rewards are not all equal, and sample other
            prompts until the step is full or `max_draws` rounds are spent.
        max_draws: rounds of sampling in a step, >= 1; what is then missing stays missing and is counted.
        overlong_buffer: share of `max_new_tokens` over which a completion's reward is lowered; 0 is off.
        overlong_penalty: how much is taken off a completion that fills its budget.
        mask_truncated: leave completions without an end-of-sequence token out of the loss.

    References:
        Yu et al. 2025 (DAPO, dynamic sampling and soft overlong punishment), https://arxiv.org/abs/2503.14476
    """

    dynamic_sampling: bool
    max_draws: int
    overlong_buffer: float
    overlong_penalty: float
    mask_truncated: bool

    def __post_init__(self) -> None:
        if self.max_draws < 1:
            raise ValueError(f"algo.rollout_rule.max_draws={self.max_draws}: a step samples at least once")
        if self.max_draws > 1 and not self.dynamic_sampling:
            raise ValueError(
                f"algo.rollout_rule.max_draws={self.max_draws} has no effect without dynamic_sampling: "
                "set it to 1"
            )
        if not 0 <= self.overlong_buffer <= 1:
            raise ValueError(
                f"algo.rollout_rule.overlong_buffer={self.overlong_buffer} is a share of max_new_tokens: "
                "give a number in [0, 1]"
            )

    def shape(self, rewards: PerCompletion, lengths: PerCompletion, max_new_tokens: int) -> PerCompletion:
        """Soft overlong punishment, added to the rewards.

            R + penalty * clip( (Lmax - buffer - |o|) / buffer, -1, 0 )

        zero up to Lmax - buffer tokens, falling linearly to -penalty at Lmax.

        Args:
            rewards: R, of each completion.
            lengths: |o|, its tokens.
            max_new_tokens: Lmax, the budget it was sampled with.

        Example:
            >>> rule = RolloutRule(
            ...     dynamic_sampling=False, max_draws=1, overlong_buffer=0.5, overlong_penalty=1.0,
            ...     mask_truncated=False,
            ... )
            >>> rule.shape(torch.ones(3), torch.tensor([40.0, 75.0, 100.0]), 100)
            tensor([1.0000, 0.5000, 0.0000])
        """
        if self.overlong_buffer == 0:
            return rewards
        buffer = self.overlong_buffer * max_new_tokens
        return rewards + self.overlong_penalty * ((max_new_tokens - buffer - lengths) / buffer).clamp(-1, 0)

    def keeps(self, rewards: PerCompletion, group: GroupIds) -> Bool[Tensor, " B"]:
        """Completions of groups that have a gradient: with dynamic sampling, those whose rewards differ."""
        if not self.dynamic_sampling:
            return torch.ones_like(group, dtype=torch.bool)
        known = torch.where(rewards.isnan(), group_mean(rewards, group), rewards)
        return group_mean((known - group_mean(rewards, group)).abs(), group) > 0
