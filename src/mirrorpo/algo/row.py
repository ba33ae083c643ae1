"""The row that a `conf/algo/<name>.yaml` fills in."""

from dataclasses import dataclass

from mirrorpo.core.protocols import AdvantageEstimator, Aggregation, Ratio, RolloutRule, Surrogate


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """One row of the algorithm table.

    Attributes:
        advantage: rewards -> advantages.
        ratio: log-probabilities -> log importance ratios.
        surrogate: (log-ratio, advantage) -> credit of a token.
        aggregate: per-token losses -> scalar.
        rollout_rule: which groups and tokens are trained, and what overlong completions cost.
    """

    advantage: AdvantageEstimator
    ratio: Ratio
    surrogate: Surrogate
    aggregate: Aggregation
    rollout_rule: RolloutRule
