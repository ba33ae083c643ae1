"""What is wrong with a run's folder, in one line. Imports no torch."""

from pathlib import Path


class RunError(ValueError):
    """A run folder that cannot be used as asked."""


class DiskError(RunError):
    """A write that the disk refused; the run goes on once there is room."""


def unwritable(folder: Path, error: OSError) -> str:
    """What a folder that cannot be made, or written to, is answered with."""
    return f"out: cannot write to {folder} ({error}); set out= to a folder that can be written to"
