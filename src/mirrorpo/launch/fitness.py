"""What a run returns to whoever searches over runs. Imports no torch."""

import re

from mirrorpo.launch.errors import LaunchError
from mirrorpo.run.folder import RunFolder

# Which rows a quantity's mean is over: all, or the last ones.
MEAN = re.compile(r"(?:area|last(?P<rows>[1-9][0-9]*)):(?P<name>.+)")


def quantity_of(key: str) -> str:
    """The quantity of a fitness, without what is taken of it.

    Example:
        >>> quantity_of("last30:reward/gold"), quantity_of("eval/greedy_accuracy")
        ('reward/gold', 'eval/greedy_accuracy')
    """
    mean = MEAN.fullmatch(key)
    return mean["name"] if mean else key


def fitness_of(folder: RunFolder, key: str, setting: str) -> float | None:
    """The last value of a quantity of `metrics.jsonl`, or a mean; None while the run is not done.

    Args:
        folder: of the run.
        key: the quantity; `area:` before it takes its mean over the rows that have it, the area under its
            curve, and `last30:` its mean over the last thirty of those.
        setting: that names it, for the error.

    Raises:
        LaunchError: if the run has no such quantity, or fewer values than the mean is over.
    """
    if not folder.finished():
        return None
    mean, name = MEAN.fullmatch(key), quantity_of(key)
    values = [row[name] for row in folder.metrics.stream() if name in row]
    if not values:
        raise LaunchError(
            f"{setting}={key}: {folder.metrics.path} has no such quantity; eval/greedy_accuracy, "
            "area:reward/mean and last30:reward/mean are some"
        )
    if not mean:
        return float(values[-1])
    rows = int(mean["rows"] or len(values))
    if rows > len(values):
        raise LaunchError(
            f"{setting}={key}: {folder.metrics.path} has {len(values)} values of it; take fewer, or "
            f"area:{name}"
        )
    return float(sum(values[-rows:]) / rows)
