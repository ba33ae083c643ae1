"""What a run's greedy answers gained between two evaluations of the same questions."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

LEVEL = 0.95


def gain_line(before: Sequence[Mapping[str, object]], after: Sequence[Mapping[str, object]]) -> str:
    """The gain in points with its interval over questions, in a line; "" where no question is shared.

    Paired by question, Student's t: mean +- t_{n-1} s / sqrt(n) of the differences.

    Args:
        before: the first evaluation's rows.
        after: the last one's.

    Example:
        >>> rows = [{"uid": str(index), "right": index < 50} for index in range(100)]
        >>> gain_line(rows, [row | {"right": index < 60} for index, row in enumerate(rows)])
        'greedy gain +10.0 points [4.0, 16.0] over 100 questions, 10 turned right, 0 turned wrong'
    """
    first = {str(row["uid"]): bool(row["right"]) for row in before}
    last = {str(row["uid"]): bool(row["right"]) for row in after}
    gaps = [float(right) - first[uid] for uid, right in last.items() if uid in first]
    if not gaps:
        return ""
    mean, n = fmean(gaps), len(gaps)
    bounds = ""
    if n > 1:
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * stdev(gaps) / math.sqrt(n)
        bounds = f" [{100 * (mean - half):.1f}, {100 * (mean + half):.1f}]"
    turned = f"{gaps.count(1.0)} turned right, {gaps.count(-1.0)} turned wrong"
    return f"greedy gain {100 * mean:+.1f} points{bounds} over {n} questions, {turned}"
