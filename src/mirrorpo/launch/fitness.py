"""What a run returns to whoever searches over runs. Imports no torch."""

from mirrorpo.launch.errors import LaunchError
from mirrorpo.run.folder import RunFolder

AREA = "area:"


def fitness_of(folder: RunFolder, key: str, setting: str) -> float | None:
    """The last value of a quantity of `metrics.jsonl`, or its mean; None while the run is not done.

    Args:
        folder: of the run.
        key: the quantity; `area:` before it takes its mean over the rows that have it, the area under its
            curve.
        setting: that names it, for the error.

    Raises:
        LaunchError: if the run has no such quantity.
    """
    if not folder.finished():
        return None
    name = key.removeprefix(AREA)
    values = [row[name] for row in folder.metrics.stream() if name in row]
    if not values:
        raise LaunchError(
            f"{setting}={key}: {folder.metrics.path} has no such quantity; eval/greedy_accuracy and "
            f"{AREA}reward/mean are some"
        )
    return float(sum(values) / len(values) if key.startswith(AREA) else values[-1])
