"""What a run returns to whoever searches over runs. Imports no torch."""

from mirrorpo.launch.errors import LaunchError
from mirrorpo.run.folder import RunFolder


def fitness_of(folder: RunFolder, key: str, setting: str) -> float | None:
    """The last value of a quantity of `metrics.jsonl`; None while the run is not done.

    Args:
        folder: of the run.
        key: the quantity.
        setting: that names it, for the error.

    Raises:
        LaunchError: if the run has no such quantity.
    """
    if not folder.finished():
        return None
    value = None
    for row in folder.metrics.stream():
        value = row.get(key, value)
    if value is None:
        raise LaunchError(
            f"{setting}={key}: {folder.metrics.path} has no such quantity; eval/greedy_accuracy is one"
        )
    return float(value)
