"""Whether seeds were added to a sweep after it could have been looked at, by its runs' clocks."""

from collections.abc import Sequence
from datetime import datetime

from analysis.study.design import Run

# Within one launch a run begins soon after another ends.
PAUSE_S = 600.0
FEWEST = 2


def _span(run: Run) -> tuple[float, float] | None:
    """When a run was begun and ended, in seconds; None where it does not say."""
    try:
        begun, ended = (
            datetime.fromisoformat(str(run.row[name]).replace("Z", "+00:00")).timestamp()
            for name in ("started", "ended")
        )
    except (ValueError, TypeError):
        return None
    return begun, ended


def batches(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by when they were made: between two batches nothing ran, for longer than the longest run took."""
    spans = {run.name: span for run in runs if (span := _span(run)) is not None}
    timed = sorted((run for run in runs if run.name in spans), key=lambda run: spans[run.name])
    longest = max((ended - begun for begun, ended in spans.values()), default=0.0)
    out: list[list[Run]] = []
    last = float("-inf")
    for run in timed:
        begun, ended = spans[run.name]
        if not out or begun - last > max(PAUSE_S, longest):
            out.append([])
        out[-1].append(run)
        last = max(last, ended)
    return out


def added_seeds(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Each time that seeds were added to arms that had others: how many there were, and how many came."""
    before: dict[str, set[int]] = {}
    out: list[tuple[int, int]] = []
    for batch in batches(runs):
        fresh: set[int] = set()
        for run in batch:
            # An arm that is added with its seeds later was not there to be looked at.
            if run.arm in before and len(before[run.arm]) >= FEWEST and run.seed not in before[run.arm]:
                fresh.add(run.seed)
        # An arm that began later brings no seed that none had.
        fresh -= set().union(*before.values()) if before else set()
        if fresh and len(before) > 1:
            out.append((max(len(seeds) for seeds in before.values()), len(fresh)))
        for run in batch:
            before.setdefault(run.arm, set()).add(run.seed)
    return out


def looked_before(runs: Sequence[Run]) -> list[str]:
    """What has to be said of seeds that were added later, where no plan says when to look."""
    added = added_seeds(runs)
    if not added:
        return []
    said = ", ".join(f"{count} to {there}" for there, count in added)
    return [
        f"Looked at before? Seeds were added later ({said}), after a pause longer than a run. If they were "
        "added since the table was undecided, p is smaller than it says: looking twice errs in about 8% and "
        "not in 5%. A plan (seeds: {planned: 15, looks: [5]}) spends the error over the looks."
    ]
