"""What is wrong with a run's folder, in one line. Imports no torch."""


class RunError(ValueError):
    """A run folder that cannot be used as asked."""


class DiskError(RunError):
    """A write that the disk refused; the run goes on once there is room."""
