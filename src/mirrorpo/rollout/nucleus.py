"""What sampling from a cut distribution means for training."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable


@runtime_checkable
class CutsDistribution(Protocol):
    """An engine that samples from a nucleus where `top_p` is below 1."""

    @property
    def top_p(self) -> float: ...


def cut_distribution_notes(group: str, top_p: float) -> Iterable[str]:
    """Of the training rollouts alone: an evaluation may sample as it likes."""
    if group == "rollout" and top_p < 1:
        yield (
            f"rollout.top_p={top_p}: completions come from a cut distribution, ratios and divergences are of "
            "the whole one"
        )
