"""Credit where the dataset says that it belongs: the most that a weighting of its range can reach."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Assembly, DeclaresDeciding, Scorer
from mirrorpo.core.shapes import PerToken
from mirrorpo.weighting.scale import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class Oracle:
    """The larger weight on the tokens that decide, by the dataset's own word, the smaller on all others.

        w_t = high for t in a deciding span, else low;   1 in a completion without one

    Value: low, high or 1. Gradient: none. Nothing is scored.

    Attributes:
        low: weight of tokens that decide nothing, >= 0.
        high: weight of those that decide, above low.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A dataset that says what decides."""
        if not isinstance(assembly.dataset, DeclaresDeciding):
            yield (
                f"{group}=oracle with dataset={type(assembly.dataset).__name__}: it does not say which spans "
                "decide (DeclaresDeciding in mirrorpo.core.protocols); use dataset=ledger, or another "
                "weighting"
            )

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        weights = torch.where(batch.deciding, self.high, self.low)
        return torch.where(batch.deciding.any(dim=1, keepdim=True), weights, 1.0)
