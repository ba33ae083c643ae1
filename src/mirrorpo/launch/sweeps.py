"""Which sweeps a folder holds, and what their runs wrote of their jobs. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path

from mirrorpo.launch.scheduler import Job, newest
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder, run_folders
from mirrorpo.run.manifest import RunState


def sweeps(root: Path) -> dict[Path, list[Path]]:
    """The sweeps of the runs at and below a folder, with those runs: `<sweep>/<label>/seed=<n>`.

    >>> sweeps(Path("nowhere"))
    {}
    """
    out: dict[Path, list[Path]] = {}
    for run in run_folders(root):
        out.setdefault(run.parents[1], []).append(run)
    return out


def own_runs(sweep: Path) -> list[Path]:
    """The runs of a sweep, without those of another whose name begins with its own, as `a` and `a/b` do."""
    return [run for run in run_folders(sweep) if sweep not in run.parents[1].parents]


def last_written(sweep: Path) -> Mapping[Path, Job]:
    """The jobs of a sweep as the runs' manifests have them, for when SLURM does not answer."""
    out = {}
    for path in newest(sweep):
        try:
            manifest = RunFolder(path).manifest()
        except RunError:
            continue
        state, job = manifest.get("state"), str(manifest.get("job") or "")
        if state == RunState.RUNNING:
            out[path] = Job(job, "RUNNING", "")
        elif state in (RunState.QUEUED, RunState.REQUEUED):
            out[path] = Job(job, "PENDING", "as last written")
    return out
