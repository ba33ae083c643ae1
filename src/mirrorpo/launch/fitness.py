"""What a run returns to whoever searches over runs. Imports no torch."""

import math
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


class NoFitness(LaunchError):
    """A finished run that lacks the quantity: of that run, or of all where its name is wrong."""


def fitness_of(folder: RunFolder, key: str, setting: str) -> float | None:
    """The last value of a quantity of `metrics.jsonl`, or a mean; None while the run is not done.

    What is no finite number stands in no row. So a quantity that the last row lacks has no last value, and
    an earlier one does not stand for it.

    Args:
        folder: of the run.
        key: the quantity; `area:` before it takes its mean over the rows that have it, the area under its
            curve, and `last30:` its mean over the last thirty of those.
        setting: that names it, for the error.

    Raises:
        NoFitness: if the run has no such quantity or no last one, or fewer values than the mean is over.
    """
    if not folder.finished():
        return None
    mean, name = MEAN.fullmatch(key), quantity_of(key)
    rows = [_finite(row.get(name)) for row in folder.metrics.stream()]
    values = [value for value in rows if value is not None]
    said = f"{setting}={key}: {folder.metrics.path}"
    if not values:
        raise NoFitness(
            f"{said} has no such quantity; eval/greedy_accuracy, area:reward/mean and last30:reward/mean are "
            "some"
        )
    if not mean:
        if rows[-1] is None:
            raise NoFitness(
                f"{said} has none in its last row, as of what is no finite number; area:{name} "
                "is the mean of the others"
            )
        return values[-1]
    count = int(mean["rows"] or len(values))
    if count > len(values):
        raise NoFitness(f"{said} has {len(values)} values of it; take fewer, or area:{name}")
    return sum(values[-count:]) / count


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
