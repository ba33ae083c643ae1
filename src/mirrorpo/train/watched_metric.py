"""A metric that an anchor moves by, which a run has to have."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from mirrorpo.core.protocols import Anchor, AnchorPart, WatchesMetric
from mirrorpo.divergence.anchor import Mixture, begun, moving_parts, of_part

# Names of what a step has of the kinds of spans that occur in it, where spans are scored.
OF_SPANS = r"credit/(spans|distractors|last|position_[1-5]|gradient_rest|(drop|tokens|gradient)_\w+)"
# Of completions with an advantage.
OF_ADVANTAGES = r"credit/all_(tokens|gradient)_(calculation|format|answer|other)"
DRIFT = r"drift/(kl|probl2|tv)"
OF_A_REGION = r"trust_region/(masked|position)"


def occurring(
    metrics: Mapping[str, float], *, drift_due: bool, outcomes_declared: bool, scores_spans: bool
) -> Iterator[str]:
    """Patterns of metrics that a later step may have where this one has none.

    Args:
        metrics: of the step.
        drift_due: whether the step measured the drift.
        outcomes_declared: whether every outcome of the reward is counted at every step.
        scores_spans: whether the weighting may score spans.
    """
    if not drift_due:
        yield DRIFT
    if not outcomes_declared:
        yield r"outcome/\w+"
    if scores_spans:
        yield OF_SPANS
    if metrics["group/zero_advantage"] == 1:
        yield OF_ADVANTAGES
    if "trust_region/factor" in metrics:
        yield OF_A_REGION
    if not metrics["completion/trained"]:
        yield ".*"


def refuse_absent(
    anchor: Anchor,
    step: int,
    memory: Mapping[str, float],
    metrics: Mapping[str, float],
    may_come: Iterable[str],
) -> None:
    """Check that a step has what the anchor watches, until it was measured once.

    Args:
        anchor: of the run.
        step: that was taken.
        memory: of the anchor, before it.
        metrics: of the step.
        may_come: patterns of metrics that a later step may have.

    Raises:
        ValueError: naming the setting, the metric and those that are near.
    """
    patterns = list(may_come)
    moving = moving_parts(anchor)
    for number, part in moving.items():
        watched = part.measure if isinstance(part, WatchesMetric) else None
        if watched is None or watched in metrics or begun(of_part(memory, number)):
            continue
        if any(re.fullmatch(pattern, watched) for pattern in patterns):
            continue
        near = get_close_matches(watched, metrics, n=3)
        cure = f"did you mean {' or '.join(near)}?" if near else "docs/metrics.md lists those there are"
        raise ValueError(
            f"{_place(anchor, part)}.measure={watched}: step {step} has no such metric, so it would reset "
            f"nothing; {cure}"
        )


def _place(anchor: Anchor, part: AnchorPart) -> str:
    if not isinstance(anchor, Mixture):
        return "anchor"
    return "anchor.second" if anchor.second is part else "anchor.first"
