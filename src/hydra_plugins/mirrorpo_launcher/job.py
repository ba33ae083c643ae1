"""What a SLURM job does first: become the run."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Become:
    """Replaces the process by a command, so that the job's exit status is the run's and its signals reach the run.

    SIGUSR2 is blocked on the way: one that comes before the run listens waits for it.

    Attributes:
        command: program and arguments.
    """

    command: Sequence[str]

    def __call__(self) -> None:
        """Does not return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        for signum in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_DFL)
        os.execv(self.command[0], list(self.command))
