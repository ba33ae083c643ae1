"""What sampling from a cut distribution means for training."""

from collections.abc import Iterable


def cut_distribution_notes(group: str, top_p: float) -> Iterable[str]:
    """Of the training rollouts alone: an evaluation may sample as it likes."""
    if group == "rollout" and top_p < 1:
        yield (
            f"rollout.top_p={top_p}: completions come from a cut distribution, ratios and divergences are of "
            "the whole one"
        )
