"""Rewards to advantages, one number per completion, constant in the policy.

Several docstrings state the expected gradient: of the mean over a group's n completions of A_i log pi(y_i),
where a reward is 1 with probability p and else 0. It is w(p) grad p, and w says which function of p is
climbed: p itself with w = 1, log p with w = 1 / p.
"""

import math
from dataclasses import dataclass

import torch

from mirrorpo.core.batch import GroupedRewards
from mirrorpo.core.masked import group_mean, group_size
from mirrorpo.core.shapes import GroupIds, PerCompletion
from mirrorpo.core.tensors import integers


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMean:
    """Reward minus the mean reward of its group.

        A_i = R_i - mean_j R_j

    Value: sums to zero over a group. NaN rewards (no verdict) get 0 and do not enter the mean.
    Gradient: none; expected gradient w(p) = (n - 1) / n, as the mean contains the completion's own reward.

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
        scaled = centred / (group_std(rewards, group, self.ddof) + self.epsilon)
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
    0 and enter neither mean nor std; a batch of equal groups gets 0. Gradient: none. Bias: mean and std
    contain the completion's own reward.

    It counts completions, and is not centred anew: over completions the mean is zero already. verl whitens
    over tokens, where the mean is not zero once right and wrong answers differ in length, and takes it off:
    that is `GroupMean` with `token_normalisation.Whitened` (`algo=reinforce_pp_verl`).

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

    Value: of the rewards' size; its policy gradient is unbiased, w(p) = 1, and noisier than with a baseline.
    NaN rewards get 0. Gradient: none.

    Example:
        >>> NoBaseline()(torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]))
        tensor([1., 0.])

    References:
        Williams 1992 (REINFORCE), https://doi.org/10.1007/BF00992696
    """

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        return rewards.detach().nan_to_num(nan=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanNormalised:
    """Reward minus the group's mean reward, in units of that mean: maximum likelihood of a right answer.

        A_i = (R_i - m) / (m + epsilon),   m = mean_j R_j;   0 where m is not above 0

    Value: sums to zero over a group; of rewards 0 and 1, a right answer gets 1 / m - 1 and a wrong one -1.
    NaN rewards get 0 and do not enter the mean. Gradient: none; expected gradient (epsilon 0)

        w(p) = sum_{k = 1 .. n - 1} (1 - p)^(k - 1)  =  (1 - (1 - p)^(n - 1)) / p

    the first n - 1 terms of 1 / p, which is that of log p; each is the gradient of pass@k over k, and n = 2
    climbs p itself. Bias: for log p the terms from n on are missing. The paper counts n terms: with the
    baseline taken off groups without a right answer too, which pushes down their wrong ones.

    Rewards are to be 0 or more. Where a group's mean is 0 or less, there is nothing to be relative to.

    Attributes:
        epsilon: added to the mean.

    Example:
        >>> MeanNormalised(epsilon=0.0)(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long))
        tensor([ 3., -1., -1., -1.])

    References:
        Tajwar et al. 2026 (MaxRL), https://arxiv.org/abs/2602.02710
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"algo.advantage.epsilon={self.epsilon}: give 0 or more")

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        mean = group_mean(rewards.detach(), group)
        relative = GroupMean()(rewards, group) / (mean + self.epsilon)
        return torch.where(mean > 0, relative, torch.zeros_like(relative))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantileBaseline:
    """Reward minus a quantile of its group's rewards, over their standard deviation.

        A_i = (R_i - Q_j R_j) / (std_j R_j + epsilon),   Q the least x with share(R_j <= x) >= quantile

    Value: of rewards 0 and 1, a hard prompt (share of right answers at most 1 - quantile) has Q = 0, so that
    its right answers are pushed up and no wrong one down; of an easy one only the wrong ones are pushed down.
    NaN rewards get 0 and count in neither; equal rewards get 0. Gradient: none; expected gradient without
    the division by the std

        w(p) = 1 - P(c = floor(n (1 - quantile))),   c right answers among n - 1

    Bias: that, as Q contains the completion's own reward, and the std's weight of a prompt, as in GRPO.

    Attributes:
        quantile: in (0, 1); lower ones take more prompts to be hard.
        epsilon: added to the standard deviation, outside the root.
        ddof: 1 divides the squared deviations by n - 1, 0 by n.

    Example:
        >>> estimator = QuantileBaseline(quantile=0.4, epsilon=0.0, ddof=0)
        >>> estimator(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 0, 1, 1]))
        tensor([2., 0., 2., 0., 0., 0.])

    References:
        Wu et al. 2025 (QAE), https://arxiv.org/abs/2509.22611
    """

    quantile: float
    epsilon: float
    ddof: int

    def __post_init__(self) -> None:
        _refuse_impossible_scale(self.epsilon, self.ddof)
        if not 0 < self.quantile < 1:
            raise ValueError(f"algo.advantage.quantile={self.quantile}: give a share between 0 and 1")

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        rewards = rewards.detach()
        baseline = torch.zeros_like(rewards)
        for number in set(integers(group)):
            of_group = group == number
            known = rewards[of_group & ~rewards.isnan()].sort().values
            if len(known):
                # 0.6 * 5 is above 3 in floating point.
                position = math.ceil(self.quantile * len(known) - 1e-9) - 1
                baseline[of_group] = known[max(position, 0)]
        scaled = (rewards - baseline) / (group_std(rewards, group, self.ddof) + self.epsilon)
        return torch.where(scaled.isfinite(), scaled, torch.zeros_like(scaled))


@dataclass(frozen=True, kw_only=True, slots=True)
class SignWeighted:
    """One number for right answers, one for wrong ones: the two sides of REINFORCE with weights of their own.

        A_i = positive   where R_i > threshold,   -negative   elsewhere

    Value: only the side of the threshold counts, so that shaping and parts of a reward do not. NaN rewards
    get 0. Gradient: none; expected gradient w(p) = positive + negative. Bias: none but that factor: grad p is
    minus the gradient of the probability of a wrong answer, so that in expectation both sides climb p alike.
    They differ in their noise, and once the policy has moved away from the one that sampled.

    Attributes:
        positive: of right answers, 0 or more; 0 learns from wrong ones alone (NSR).
        negative: of wrong answers, 0 or more; 0 learns from right ones alone (PSR).
        threshold: rewards above it are right answers.

    Example:
        >>> estimator = SignWeighted(positive=0.1, negative=1.0, threshold=0.5)
        >>> estimator(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
        tensor([ 0.1000, -1.0000])

    References:
        Zhu et al. 2025 (NSR, W-REINFORCE), https://arxiv.org/abs/2506.01347
    """

    positive: float
    negative: float
    threshold: float

    def __post_init__(self) -> None:
        if not (self.positive >= 0 and self.negative >= 0 and self.positive + self.negative > 0):
            raise ValueError(
                f"algo.advantage.positive={self.positive}, negative={self.negative}: give 0 or more, "
                "and one above 0"
            )

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        rewards = rewards.detach()
        up, down = torch.full_like(rewards, self.positive), torch.full_like(rewards, -self.negative)
        signed = torch.where(rewards > self.threshold, up, down)
        return torch.where(rewards.isnan(), torch.zeros_like(signed), signed)


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthWeightedMean:
    """Reward minus the mean reward of its group, in which a completion counts by its length.

        A_i = R_i - sum_j l_j R_j / sum_j l_j,   l_j the trained tokens of completion j

    Value: sum_j l_j A_j is zero over a group. The baseline b minimises sum_j l_j (R_j - b)^2, the variance of
    the gradient where the squared norm of grad log pi(y) grows as the length does. At equal lengths it is
    `GroupMean`. NaN rewards get 0 and do not enter the mean. Gradient: none; expected gradient at equal
    lengths w(p) = (n - 1) / n. Bias: the baseline contains the completion's own reward, that of a long
    completion with more weight.

    Example:
        >>> grouped = GroupedRewards(
        ...     rewards=torch.tensor([1.0, 0.0]), group=torch.tensor([0, 0]), lengths=torch.tensor([1, 3])
        ... )
        >>> LengthWeightedMean().estimate(grouped)
        tensor([ 0.7500, -0.2500])

    References:
        Hao et al. 2025 (OPO), https://arxiv.org/abs/2505.23585
    """

    def estimate(self, rollout: GroupedRewards) -> PerCompletion:
        """A_i of every completion."""
        rewards, group = rollout.rewards.detach(), rollout.group
        # Shifted by the group's mean, equal rewards are zero to the bit.
        centred = rewards - group_mean(rewards, group)
        lengths = torch.where(rewards.isnan(), rewards, rollout.lengths.to(rewards.dtype))
        weight = group_mean(lengths, group)
        offset = group_mean(lengths * centred, group) / weight.clamp(min=torch.finfo(rewards.dtype).tiny)
        return (centred - offset).nan_to_num(nan=0.0)


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


def group_std(rewards: PerCompletion, group: GroupIds, ddof: int) -> PerCompletion:
    """For each completion, the standard deviation of its group's known rewards."""
    size = group_size(rewards, group)
    squares = (rewards - group_mean(rewards, group)).square()
    return (group_mean(squares, group) * size / (size - ddof).clamp(min=1)).sqrt()


def _refuse_impossible_scale(epsilon: float, ddof: int) -> None:
    if ddof not in (0, 1) or not epsilon >= 0:
        raise ValueError(
            f"algo.advantage.ddof={ddof}, epsilon={epsilon}: ddof is 0 or 1, epsilon not negative"
        )
