"""`python -m mirrorpo.launch.job BATCH`: what a SLURM job does first, become the run."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# In the batch's folder, written before anything is submitted: a list for each member of the array.
COMMANDS = "commands.json"


@dataclass(frozen=True, slots=True)
class Become:
    """Replaces the process by a command, so that the job's exit status is the run's and its signals reach the
    run.

    SIGUSR2 is blocked on the way: one that comes before the run listens waits for it.

    Attributes:
        command: program and arguments.
    """

    command: Sequence[str]

    def __call__(self) -> None:
        """Does not return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            from submitit.helpers import TorchDistributedEnvironment

            # The run then finds its other processes as under torchrun; which device is its own is for
            # LOCAL_RANK to say.
            # The port is the job's own, not one that stood in the submitting shell.
            os.environ.pop("MASTER_PORT", None)
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        for signum in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_DFL)
        os.execv(self.command[0], list(self.command))


def main() -> None:
    """Become the member of the batch's array that this job is."""
    commands: list[list[str]] = json.loads((Path(sys.argv[1]) / COMMANDS).read_text())
    Become(commands[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))])()


if __name__ == "__main__":
    main()
