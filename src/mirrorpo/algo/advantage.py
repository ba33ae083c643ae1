"""Rewards to advantages, one number per completion, constant in the policy."""

from dataclasses import dataclass

import torch

from mirrorpo.core.masked import group_mean, group_size
from mirrorpo.core.shapes import GroupIds, PerCompletion


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMean:
    """Reward minus the mean reward of its group.

        A_i = R_i - mean_j R_j

    Value: sums to zero over a group. NaN rewards (no verdict) get 0 and do not enter the mean.
    Gradient: none.

    Example:
        >>> GroupMean()(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1]))
        tensor([ 0.5000, -0.5000, -0.5000,  0.5000])

    References:
        Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783
    """

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        centred = rewards.detach() - group_mean(rewards.detach(), group)
        return torch.where(centred.isnan(), torch.zeros_like(centred), centred)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStandardised:
    """Reward standardised within its group.

        A_i = (R_i - mean_j R_j) / (std_j R_j + epsilon)

    Value: zero for a group whose rewards are all equal. NaN rewards get 0 and enter neither mean
    nor std. Gradient: none.

    Attributes:
        epsilon: added to the standard deviation, outside the root.
        ddof: 1 divides the squared deviations by n - 1 (TRL), 0 by n.

    Example:
        >>> GroupStandardised(epsilon=0.0, ddof=0)(torch.tensor([1.0, 0.0]), torch.tensor([4, 4]))
        tensor([ 1., -1.])

    References:
        Shao et al. 2024 (GRPO), section 4.1, https://arxiv.org/abs/2402.03300
    """

    epsilon: float
    ddof: int

    def __post_init__(self) -> None:
        _refuse_impossible_scale(self.epsilon, self.ddof)

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        rewards = rewards.detach()
        centred = rewards - group_mean(rewards, group)
        size = group_size(rewards, group)
        variance = group_mean(centred.square(), group) * size / (size - self.ddof).clamp(min=1)
        scaled = centred / (variance.sqrt() + self.epsilon)
        # Equal rewards leave 0 / 0 when epsilon is 0; such a group has no gradient.
        return torch.where(scaled.isnan(), torch.zeros_like(scaled), scaled)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveOneOut:
    """Reward minus the mean reward of the group's other completions.

        A_i = R_i - mean_{j != i} R_j = n / (n - 1) (R_i - mean_j R_j)

    Value: sums to zero over a group; the baseline does not depend on y_i, so the policy gradient is
    unbiased. NaN rewards get 0 and do not enter the mean; a group of one gets 0. Gradient: none.

    Example:
        >>> LeaveOneOut()(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([3, 3, 3]))
        tensor([ 1.0000, -0.5000, -0.5000])

    References:
        Ahmadian et al. 2024 (RLOO), section 3, https://arxiv.org/abs/2402.14740
    """

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        size = group_size(rewards, group)
        return GroupMean()(rewards, group) * size / (size - 1).clamp(min=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMeanBatchStd:
    """Reward centred within its group, then scaled by the standard deviation over the batch.

        A_i = (R_i - mean_group R) / (std_batch(R - mean_group R) + epsilon)

    Value: unlike within-group scaling it keeps hard and easy prompts at their own size. NaN rewards get
    0 and enter neither mean nor std; a batch of equal groups gets 0. Gradient: none.

    Attributes:
        epsilon: added to the standard deviation, outside the root.
        ddof: 1 divides the squared deviations by n - 1, 0 by n.

    Example:
        >>> rewards, group = torch.tensor([1.0, 0.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1])
        >>> GroupMeanBatchStd(epsilon=0.0, ddof=0)(rewards, group)
        tensor([ 1.4142, -1.4142,  0.0000,  0.0000])

    References:
        Hu et al. 2025 (REINFORCE++, the baseline variant), https://arxiv.org/abs/2501.03262
    """

    epsilon: float
    ddof: int

    def __post_init__(self) -> None:
        _refuse_impossible_scale(self.epsilon, self.ddof)

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        centred = GroupMean()(rewards, group)
        known = centred[~rewards.isnan()].double()
        variance = (known - known.mean()).square().sum() / max(known.numel() - self.ddof, 1)
        scaled = centred / (variance.sqrt().to(centred.dtype) + self.epsilon)
        return torch.where(scaled.isfinite(), scaled, torch.zeros_like(scaled))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoBaseline:
    """The reward itself.

        A_i = R_i

    Value: of the rewards' size; its policy gradient is unbiased, and noisier than with a baseline. NaN
    rewards get 0. Gradient: none.

    Example:
        >>> NoBaseline()(torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]))
        tensor([1., 0.])

    References:
        Williams 1992 (REINFORCE), https://doi.org/10.1007/BF00992696
    """

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        return rewards.detach().nan_to_num(nan=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Advantage one for every completion: imitation of demonstrations.

        A_i = 1

    Value: 1, also for a completion without a verdict. Gradient: none.

    Example:
        >>> Unit()(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
        tensor([1., 1.])
    """

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        return torch.ones_like(rewards)


def _refuse_impossible_scale(epsilon: float, ddof: int) -> None:
    if ddof not in (0, 1) or not epsilon >= 0:
        raise ValueError(
            f"algo.advantage.ddof={ddof}, epsilon={epsilon}: ddof is 0 or 1, epsilon not negative"
        )
