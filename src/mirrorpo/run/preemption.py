"""How a run is asked to stop early, and what then becomes of its job. Imports no torch."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from mirrorpo.run.provenance import job_id
from mirrorpo.run.slurm_command import SchedulerError, completed, reason

# Sent by SLURM ahead of a job's time limit, and before a preemption; submitit asks for this one.
STOP_SIGNAL = signal.SIGUSR2

# From what stands over the others: somebody sits before a run that is interrupted, and after SIGTERM whoever
# preempts queues the job again itself.
BY_STRENGTH = (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)

INTERRUPTED = (
    b"\ninterrupted: the run stops behind this step, with a checkpoint; once more stops it at once\n"
)

# Seconds for a controller that does not answer, of those that a job has before its limit.
REQUEUE_PATIENCE_S = 60.0

# A job that has been started so often in a row without finishing a step is not queued again.
FRUITLESS_LAUNCHES = 3


class Preempted(Exception):
    """A run stopped at a step boundary because it was asked to, with a checkpoint of that step on disk."""

    def __init__(self, step: int, signum: signal.Signals) -> None:
        super().__init__(f"stopped by {signum.name} after step {step}; the same command goes on from there")
        self.step, self.signum = step, signum

    @property
    def status(self) -> int:
        """The process's exit status: that of a temporary failure, or what the signal would have left."""
        return os.EX_TEMPFAIL if self.signum == STOP_SIGNAL else 128 + self.signum


@dataclass(slots=True)
class StopRequest:
    """The request to stop; a handler only notes it, the training loop reads it between two steps.

    Attributes:
        signum: the signal that asked, or None.
    """

    signum: signal.Signals | None = None

    def listen(self) -> "StopRequest":
        """Take SIGUSR2, SIGTERM and SIGINT (Ctrl-C) as requests.

        A second SIGTERM, or a second Ctrl-C, ends the process at once, as the first would without this. A
        launcher may block SIGUSR2 before it starts the run, so that one that comes early waits until here.
        """
        for signum in (STOP_SIGNAL, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP_SIGNAL})
        return self

    def close(self) -> None:
        """Ignore further requests to be queued again: a process that is about to end must not be ended by
        one.
        """
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        elif signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(sys.stderr.fileno(), INTERRUPTED)
        self.signum = strongest([self.signum, signal.Signals(signum)])


def strongest(signums: Sequence[signal.Signals | None]) -> signal.Signals | None:
    """Which of several requests stands: Ctrl-C over SIGTERM over SIGUSR2, in whatever order they came.

    A launcher answers Ctrl-C with SIGTERM to its cells, which may overtake the terminal's own signal.
    """
    return next((signum for signum in BY_STRENGTH if signum in signums), None)


def requeue(unwanted: Callable[[], bool] = lambda: False) -> str | None:
    """Queue this process's SLURM job again, under its id; None when done or outside of a job, else why it
    could not be.

    The run is found again by its folder, so the job starts as it did the first time.

    Args:
        unwanted: whether the job was cancelled since; looked at before each try.
    """
    job = job_id()
    if job is None or unwanted():
        return None
    if shutil.which("scontrol") is None:
        return f"job {job} cannot be queued again from its node: there is no scontrol; launch the sweep again"
    try:
        # A job that is queued again is ended at once, at times with the scontrol that asked for it before
        # that could say so.
        result = completed(
            "scontrol",
            "requeue",
            job,
            patience_s=REQUEUE_PATIENCE_S,
            before_retry=lambda: "" if unwanted() else None,
        )
    except SchedulerError as error:
        return f"job {job} could not be queued again ({error}); launch the sweep again"
    if result.returncode > 0:
        return f"job {job} could not be queued again ({reason(result)}); launch the sweep again"
    return None


def fruitless(launches: list[dict]) -> bool:
    """Whether the last launches all began at one step, so that starting once more promises nothing."""
    last = [launch.get("from_step") for launch in launches[-FRUITLESS_LAUNCHES:]]
    return len(last) == FRUITLESS_LAUNCHES and len(set(last)) == 1
