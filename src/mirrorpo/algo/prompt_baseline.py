"""Baselines that outlive a rollout: a prompt's value, tracked from visit to visit."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mirrorpo.core.batch import GroupedRewards, PromptMemory, Visit
from mirrorpo.core.protocols import Assembly, PromptTracker, StatesNotes, StatesRequirements
from mirrorpo.core.shapes import PerCompletion
from mirrorpo.core.tensors import numbers as read


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedBaseline:
    """Reward minus the prompt's value as it was tracked before this visit.

        A_i = R_i - v(x_i)
        A_i <- (A_i - mean A) / (std A + batch_std_epsilon)   unless batch_std_epsilon=null

    Value: learns from groups of one. All completions of a prompt in a rollout are one visit, in whatever
    groups they are, and have the value before it. NaN rewards get 0 and enter nothing; a visit of NaN alone
    leaves the prompt's value as it was. Gradient: none; expected gradient w(p) = 1, as v(x) depends on no
    reward of the visit. Bias: none without the standardisation over the rollout's completions (ddof 1), whose
    mean and std contain the completion's own reward.

    Attributes:
        tracker: of a prompt's value.
        batch_std_epsilon: added to the standard deviation, outside the root; None for no standardisation.

    Example:
        >>> tracker = BetaTracker(prior_value=0.5, prior_count=1.0, half_drift=0.06, low=0.9, high=0.9)
        >>> baseline = TrackedBaseline(tracker=tracker, batch_std_epsilon=None)
        >>> rollout = GroupedRewards(
        ...     rewards=torch.tensor([1.0, 1.0]), group=torch.tensor([0, 1]), lengths=torch.tensor([1, 1])
        ... )
        >>> visit = Visit(uids=["old", "new"], step=2, drift=0.0, memory={"old": [0.75, 3.0, 0.0]})
        >>> baseline.track(rollout, visit)[0]
        tensor([0.2500, 0.5000])
    """

    tracker: PromptTracker
    batch_std_epsilon: float | None

    def __post_init__(self) -> None:
        if self.batch_std_epsilon is not None and not self.batch_std_epsilon >= 0:
            raise ValueError(
                f"algo.advantage.batch_std_epsilon={self.batch_std_epsilon}: give 0 or more, or null"
            )

    def value(self, numbers: Sequence[float]) -> float:
        """A prompt's, from what is remembered of it; empty of one that was never visited."""
        return self.tracker.value(numbers)

    def track(self, rollout: GroupedRewards, visit: Visit) -> tuple[PerCompletion, PromptMemory]:
        """A_i of every completion, and what is remembered of prompts from then on."""
        rewards = rollout.rewards.detach()
        values = [self.value(visit.memory.get(uid, ())) for uid in visit.uids]
        centred = rewards.double() - torch.tensor(values, dtype=torch.float64, device=rewards.device)
        if self.batch_std_epsilon is not None:
            centred = _standardised(centred, self.batch_std_epsilon)
        advantages = centred.nan_to_num(nan=0.0).to(rewards.dtype)
        return advantages, {**visit.memory, **self._updated(rewards, visit)}

    def _updated(self, rewards: PerCompletion, visit: Visit) -> PromptMemory:
        known: dict[str, list[float]] = {}
        for uid, reward in zip(visit.uids, read(rewards.unbind()), strict=True):
            if not math.isnan(reward):
                known.setdefault(uid, []).append(reward)
        return {
            uid: self.tracker.after(visit.memory.get(uid, ()), of_prompt, step=visit.step, drift=visit.drift)
            for uid, of_prompt in known.items()
        }

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """What the tracker refuses; and every visit counts, that of a group of equal rewards too."""
        if assembly.config["algo"].get("rollout_rule", {}).get("dynamic_sampling"):
            yield (
                f"algo.rollout_rule.dynamic_sampling=true with {group}={type(self).__name__}: it drops "
                "groups of equal rewards, which have a gradient here, and tracked values would lack their "
                "rewards; use algo.rollout_rule.dynamic_sampling=false algo.rollout_rule.max_draws=1"
            )
        if isinstance(self.tracker, StatesRequirements):
            yield from self.tracker.requirements(f"{group}.tracker", assembly)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """What the tracker says."""
        if isinstance(self.tracker, StatesNotes):
            yield from self.tracker.notes(f"{group}.tracker", assembly)


@dataclass(frozen=True, kw_only=True, slots=True)
class BetaTracker:
    """A prompt's success rate as a Beta distribution whose counts fade as the policy drifts.

        v = alpha / (alpha + beta)
        alpha <- rho alpha + sum_j R_j,   beta <- rho beta + sum_j (1 - R_j)
        rho = clip( 2^(-D / half_drift), low, high ),   D = (sqrt(K) - sqrt(K at the last visit))^2

    K is the KL of the policy from the start model, in nats a token, on the states of the drift probe
    (`drift/kl`), as it was last measured. The square root of a KL is a distance for small steps, so D is at
    most the KL between the two policies, to second order; it is 0 where the policy circles the start model at
    one distance, and `high` then bounds the memory, at n / (1 - high) rewards of visits with n each.

    Value: of rewards in [0, 1] in [0, 1]; of others the same fading mean. `low` = `high` = 1 counts every
    reward alike, `high` = 0 the last visit's alone, `low` = `high` is a constant rate. NaN rewards are none.
    Gradient: none.

    Attributes:
        prior_value: v of a prompt before its first visit.
        prior_count: alpha + beta then; 0 forgets it at the first visit.
        half_drift: D at which half of the counts are kept, before the clip.
        low: least share kept.
        high: largest.

    Example:
        >>> tracker = BetaTracker(prior_value=0.5, prior_count=2.0, half_drift=0.06, low=0.9, high=1.0)
        >>> tracker.after((), [1.0, 1.0], step=1, drift=0.0)
        [0.75, 4.0, 0.0]

    References:
        Xu and Ding 2025 (SPO), https://arxiv.org/abs/2509.13232
    """

    prior_value: float
    prior_count: float
    half_drift: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.prior_count >= 0 and self.half_drift > 0 and 0 <= self.low <= self.high <= 1):
            raise ValueError(
                f"algo.advantage.tracker: prior_count={self.prior_count}, half_drift={self.half_drift}, "
                f"low={self.low}, high={self.high}: give prior_count 0 or more, half_drift above 0, and "
                "0 <= low <= high <= 1"
            )

    def value(self, numbers: Sequence[float]) -> float:
        """The mean, alpha / (alpha + beta)."""
        return numbers[0] if numbers else self.prior_value

    def after(
        self, numbers: Sequence[float], rewards: Sequence[float], *, step: int, drift: float
    ) -> list[float]:
        """The mean, alpha + beta, and the drift at this visit."""
        mean, count, then = numbers or (self.prior_value, self.prior_count, drift)
        kept = self.kept(then, drift) * count
        total = kept + len(rewards)
        return [(kept * mean + sum(rewards)) / total, total, drift]

    def kept(self, then: float, now: float) -> float:
        """The share of the counts that a visit keeps of those before it, rho."""
        moved = (max(now, 0.0) ** 0.5 - max(then, 0.0) ** 0.5) ** 2
        return min(max(2 ** (-moved / self.half_drift), self.low), self.high)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A drift that is not measured."""
        if self.low < self.high and not assembly.config["drift_questions"]:
            yield (
                f"drift_questions=0: no drift is measured, so {group} keeps {self.high} of its counts at "
                "each visit; set drift_questions, or low and high to one share"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class KalmanTracker:
    """A prompt's success rate as the state of a scalar Kalman filter: a random walk, seen through a group's
    mean.

        P <- P + process (step - step of the last visit)
        g = P / (P + observation / n);   v <- v + g (mean_j R_j - v);   P <- g observation / n

    Value: any rewards; of those in [0, 1] in [0, 1]. With `process` = 0 it is the mean of all rewards and
    of a prior that counts as observation / prior_variance of them; the larger `process`, the nearer to the
    last visit's mean. NaN rewards are none, and n is the number of the others. Gradient: none.

    Attributes:
        prior_value: v before the first visit.
        prior_variance: P then.
        process: variance that a step of the run adds.
        observation: variance of one reward; 0.25 is the largest of rewards 0 and 1.

    Example:
        >>> tracker = KalmanTracker(prior_value=0.5, prior_variance=0.25, process=0.0, observation=0.25)
        >>> tracker.after((), [1.0], step=1, drift=0.0)
        [0.75, 0.125, 1.0]

    References:
        Kalman 1960, https://doi.org/10.1115/1.3662552
    """

    prior_value: float
    prior_variance: float
    process: float
    observation: float

    def __post_init__(self) -> None:
        if not (self.prior_variance >= 0 and self.process >= 0 and self.observation > 0):
            raise ValueError(
                f"algo.advantage.tracker: prior_variance={self.prior_variance}, process={self.process}, "
                f"observation={self.observation}: give 0 or more, and an observation above 0"
            )

    def value(self, numbers: Sequence[float]) -> float:
        """The filter's mean; a random walk's prediction is the same."""
        return numbers[0] if numbers else self.prior_value

    def after(
        self, numbers: Sequence[float], rewards: Sequence[float], *, step: int, drift: float
    ) -> list[float]:
        """The mean, its variance, and the step of this visit."""
        mean, variance, then = numbers or (self.prior_value, self.prior_variance, step)
        predicted = variance + self.process * (step - then)
        noise = self.observation / len(rewards)
        gain = predicted / (predicted + noise)
        seen = sum(rewards) / len(rewards)
        return [mean + gain * (seen - mean), gain * noise, float(step)]


def _standardised(values: PerCompletion, epsilon: float) -> PerCompletion:
    # Over all that are known; where they are all equal, or there is one, zero.
    known = values[~values.isnan()]
    mean = known.mean() if len(known) else torch.zeros_like(values.sum())
    variance = (known - mean).square().sum() / max(len(known) - 1, 1)
    scaled = (values - mean) / (variance.sqrt() + epsilon)
    return torch.where(scaled.isfinite(), scaled, torch.zeros_like(scaled))
