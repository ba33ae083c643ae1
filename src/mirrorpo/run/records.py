"""What a checkpoint says of the files beside it, so that a resume goes on from numbers that are whole.

Imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence

from mirrorpo.config.values import JsonObject
from mirrorpo.run.disk import digest_of_first, file_digest
from mirrorpo.run.folder import RunFolder, step_of


def records(folder: RunFolder, step: int) -> JsonObject:
    """The manifest, and size and digest of the metrics and evaluations up to a step."""
    files = [
        folder.metrics.path,
        *(path for path in folder.evaluations() if step_of(path) <= step),
    ]
    sizes = {
        str(path.relative_to(folder.path)): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
        if path.exists()
    }
    return {"step": step, "manifest": folder.manifest(), "files": sizes}


def fault(
    folder: RunFolder,
    step: int,
    recorded: JsonObject | None,
    evaluates: Callable[[int], bool],
    sets: Sequence[str] = ("",),
) -> str | None:
    """The file that is not what it was when the checkpoint of a step was made, and what is wrong with it.

    Such numbers cannot be made from that checkpoint, which lies behind them.

    Args:
        folder: of the run.
        step: of the checkpoint.
        recorded: what the checkpoint says of them; None of one that is older than this.
        evaluates: whether a step has an evaluation.
        sets: which are evaluated, by name; the run's own has none.

    Returns:
        None when everything up to the step is there and whole.
    """
    if recorded is not None:
        return next(
            (
                f"{folder.path / name} {problem}"
                for name, entry in recorded["files"].items()
                if (problem := _problem(folder, name, entry)) is not None
            ),
            None,
        )
    numbered = [(number, row["step"] if row else None) for number, row in folder.metrics.numbered()]
    damaged = [number for number, at in numbered if at is None]
    steps = [at for _, at in numbered if at is not None and at <= step]
    if steps != list(range(0 if evaluates(0) else 1, step + 1)):
        where = f"is damaged in line {damaged[0]}" if damaged else "lacks rows"
        return f"{folder.metrics.path} {where}"
    evaluations = [folder.evaluation(done, name) for done in steps if evaluates(done) for name in sets]
    return next((f"{path} is gone" for path in evaluations if not path.exists()), None)


def _problem(folder: RunFolder, name: str, entry: Mapping[str, object]) -> str | None:
    path = folder.path / name
    if not path.exists():
        return "is gone"
    grows = path == folder.metrics.path
    # Later steps' rows lie behind.
    digest = digest_of_first(path, int(str(entry["size"]))) if grows else file_digest(path)
    if digest == entry["sha256"]:
        return None
    damaged = folder.metrics.damaged() if grows else []
    return f"is damaged in line {damaged[0]}" if damaged else "is not what was written"
