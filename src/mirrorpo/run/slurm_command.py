"""SLURM's commands, given again while its controller does not answer. Imports no torch.

A controller that is busy, restarts or fails over answers nothing for seconds to minutes. That says nothing
about a job, so whoever asks waits and asks again, within the time that it has.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

# Seconds that one command may take; SLURM's own limit on a message is 10 s, and it tries several times.
COMMAND_LIMIT_S = 60.0

# A command is given once more at the end of its time, with at least this many seconds to answer.
SHORTEST_LIMIT_S = 5.0

# Pauses between two tries, in seconds; the last one again and again.
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)

# What SLURM's commands print when the controller, or the way to it, is not there at the moment.
SILENCE = re.compile(
    r"unable to (contact|establish) .*controller|not responding|timed out|zero bytes were transmitted"
    r"|(connect|connection|send|receive|shutdown) failure|connection (refused|reset)|persistent conn"
    r"|temporarily un(available|able)|standby mode|transport endpoint|protocol authentication error|munge"
    r"|rate limit|unexpected message",
    re.IGNORECASE,
)


class SchedulerError(ValueError):
    """SLURM did not do or say what it was asked."""


class SchedulerSilent(SchedulerError):
    """SLURM's controller did not answer in the time that there was: what it would have said is not known."""


class SchedulerRefused(SchedulerError):
    """SLURM answered, and said no.

    Attributes:
        reason: SLURM's own words, in one line.
    """

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"{command} failed: {reason}")
        self.reason = reason


def completed(
    command: str,
    *arguments: str,
    patience_s: float,
    before_retry: Callable[[], str | None] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """A command of SLURM's that its controller has answered, with yes or no.

    Args:
        command: such as `squeue`.
        *arguments: of it.
        patience_s: seconds for all tries together; 0: one try.
        before_retry: called after a try without an answer; what it returns in place of None stands for the
            command's output, and the command is not given again.

    Raises:
        SchedulerSilent: if there was no answer in that time.
        SchedulerError: if the command is not installed.
    """
    if shutil.which(command) is None:
        raise SchedulerError(
            f"there is no {command} on this machine: log in to the cluster, or use hydra/launcher=local"
        )
    end, tries = time.monotonic() + patience_s, 0
    while True:
        limit_s = max(SHORTEST_LIMIT_S, min(COMMAND_LIMIT_S, end - time.monotonic()))
        result, silence = _tried([command, *arguments], limit_s)
        if result is not None:
            return result
        pause_s = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
        tries += 1
        if time.monotonic() + pause_s >= end:
            raise SchedulerSilent(
                f"{command}: SLURM does not answer ({silence}; {tries} tries in {patience_s:.0f} s)"
            )
        time.sleep(pause_s)
        if (output := before_retry()) is not None:
            return subprocess.CompletedProcess([command, *arguments], 0, output, "")


def output(command: str, *arguments: str, patience_s: float) -> str:
    """What a command of SLURM's prints.

    Raises:
        SchedulerRefused: if SLURM refuses it.
        SchedulerSilent: if there was no answer within `patience_s` seconds.
    """
    result = completed(command, *arguments, patience_s=patience_s)
    if result.returncode != 0:
        raise SchedulerRefused(command, reason(result))
    return result.stdout


def reason(result: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed, in SLURM's words and in one line.

    >>> text = "sbatch: error: QOSMaxSubmit\\nsbatch: error: Batch job submission failed: Job violates policy"
    >>> reason(subprocess.CompletedProcess(["sbatch"], 1, "", text))
    'QOSMaxSubmit; Batch job submission failed: Job violates policy'
    """
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in result.stderr.splitlines()]
    return "; ".join(line for line in lines if line) or f"exit status {result.returncode}"


def _tried(command: Sequence[str], limit_s: float) -> tuple[subprocess.CompletedProcess[str] | None, str]:
    """One try: its result if that is an answer, else None and what stood in the way."""
    # An array's members in full, however many.
    environment = {**os.environ, "SLURM_BITSTR_LEN": "0"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stderr.decode(errors="replace").strip() if isinstance(error.stderr, bytes) else ""
        return None, printed.splitlines()[-1] if printed else f"nothing within {limit_s:.0f} s"
    if result.returncode > 0 and SILENCE.search(result.stderr):
        return None, reason(result)
    return result, ""
