"""The row that a `conf/algo/<name>.yaml` fills in."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mirrorpo.core.batch import GroupedRewards, RolloutBatch
from mirrorpo.core.protocols import (
    AdvantageEstimator,
    Aggregation,
    Assembly,
    GroupedAdvantageEstimator,
    Inert,
    Placement,
    Ratio,
    RolloutRule,
    StatesRequirements,
    Surrogate,
    TokenNormalisation,
    UpdateAdvantage,
)
from mirrorpo.core.shapes import PerCompletion


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """One row of the algorithm table.

    Attributes:
        advantage: rewards -> advantages.
        ratio: log-probabilities -> log importance ratios.
        surrogate: (log-ratio, advantage) -> credit of a token.
        aggregate: per-token losses -> scalar.
        rollout_rule: which groups and tokens are trained, and what overlong completions cost.
        penalty_placement: where the penalty acts unless `divergence.placement` says it; None is the loss.
        token_normalisation: of the credit of a rollout's tokens, or None.
        update_advantage: of each update, from the advantages and the policy of the moment, or None.
    """

    advantage: AdvantageEstimator | GroupedAdvantageEstimator
    ratio: Ratio
    surrogate: Surrogate
    aggregate: Aggregation
    rollout_rule: RolloutRule
    penalty_placement: Placement | None = None
    token_normalisation: TokenNormalisation | None = None
    update_advantage: UpdateAdvantage | None = None

    def advantages(self, batch: RolloutBatch, rewards: PerCompletion | None = None) -> PerCompletion:
        """Of all completions of a rollout; `rewards` take the place of the batch's."""
        return self._estimate(
            GroupedRewards(
                rewards=batch.rewards if rewards is None else rewards,
                group=batch.group,
                lengths=batch.mask.sum(dim=1),
            )
        )

    def _estimate(self, rollout: GroupedRewards) -> PerCompletion:
        if isinstance(self.advantage, GroupedAdvantageEstimator):
            return self.advantage.estimate(rollout)
        return self.advantage(rollout.rewards, rollout.group)

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """What the advantage refuses; and rewards that differ must give some advantage."""
        size, refused = assembly.config["group_size"], False
        if isinstance(self.advantage, StatesRequirements):
            for reason in self.advantage.requirements(f"{group}.advantage", assembly):
                refused = True
                yield reason
        if not refused and not self._some_advantage(size):
            yield (
                f"group_size={size}: algo.advantage gives every completion advantage zero, so nothing would "
                "be learned; use group_size=2 or more"
            )

    def _some_advantage(self, size: int) -> bool:
        # Of zeros and ones in turns, either first: an advantage without a baseline learns from groups of one.
        first = torch.arange(float(size)).remainder(2)
        group, lengths = torch.zeros(size, dtype=torch.long), torch.ones(size, dtype=torch.long)
        return any(
            bool(self._estimate(GroupedRewards(rewards=rewards, group=group, lengths=lengths)).any())
            for rewards in (first, 1 - first)
        )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Ratio and surrogate that have no effect."""
        if assembly.config["updates_per_rollout"] == 1 and self.departs_from_reinforce():
            yield (
                "updates_per_rollout=1: the ratio is exactly 1, so algo.ratio and algo.surrogate act as the "
                "plain policy gradient; arms that differ only in them are the same run"
            )

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Ratio and surrogate, where the policy never leaves the old one."""
        if assembly.config["updates_per_rollout"] == 1 and self.begins_as_reinforce():
            yield Inert(
                ("algo.ratio", "algo.surrogate"),
                "with updates_per_rollout=1 the ratio is exactly 1, and algo.ratio and algo.surrogate act as "
                "the plain policy gradient",
                "updates_per_rollout=2 or more",
            )

    def begins_as_reinforce(self) -> bool:
        """Whether its gradient is that of REINFORCE as long as the policy is the old one.

        Tried on two completions of two tokens.
        """
        live = torch.tensor([[-0.5, -2.0], [-1.25, -0.75]]).requires_grad_()
        mask, advantages = torch.ones(2, 2, dtype=torch.bool), torch.tensor([1.5, -1.0])
        per_token = advantages[:, None].expand_as(live)
        log_ratio = self.ratio(live, live.detach(), mask, per_token)
        (gradient,) = torch.autograd.grad(self.surrogate(log_ratio, per_token).sum(), live)
        return torch.allclose(gradient, -per_token)

    def departs_from_reinforce(self) -> bool:
        """Whether its gradient differs from that of REINFORCE once the policy has left the old one.

        Tried on two completions of two tokens that have moved away from the old policy.
        """
        old, mask = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
        per_token = torch.tensor([1.0, -1.0])[:, None].expand_as(old)
        live = torch.tensor([[2.0, 0.1], [0.1, -2.0]]).requires_grad_()
        log_ratio = self.ratio(live, old, mask, per_token)
        if torch.equal(log_ratio, self.ratio(live, old - 1, mask, per_token)):
            return False  # no old policy is read: supervised
        (gradient,) = torch.autograd.grad(self.surrogate(log_ratio, per_token).sum(), live)
        return not torch.allclose(gradient, -per_token * live.detach().exp())
