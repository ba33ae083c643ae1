"""SLURM's programs, called again while the controller is away. Imports no torch."""

import re
import subprocess
import time
from collections.abc import Callable

# Seconds in which a controller that is away is called again, and the first and the longest pause.
WAIT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0

# What its programs say of a controller that is away, busy or restarting.
AWAY = re.compile(
    r"unable to contact|socket timed out|connection (refused|reset|timed out)|communication|zero bytes"
    r"|temporarily|try again|not responding|resource temporarily|backup|transport",
    re.IGNORECASE,
)


class SlurmError(ValueError):
    """A program of SLURM failed, or did not answer in time.

    Attributes:
        away: the controller did not answer, as opposed to having refused.
    """

    def __init__(self, message: str, *, away: bool) -> None:
        super().__init__(message)
        self.away = away


def slurm(
    *command: str, wait_s: float = WAIT_S, unwanted: Callable[[], bool] = lambda: False
) -> subprocess.CompletedProcess[str] | None:
    """Run a program of SLURM until its controller answers.

    Args:
        command: program and arguments.
        wait_s: how long to go on while the controller is away.
        unwanted: looked at before each call; true ends it.

    Returns:
        The program's end, with status 0 or killed by a signal; None if it became unwanted.

    Raises:
        SlurmError: with SLURM's own words, if it refuses, is away for too long, or is not installed.
    """
    deadline, pause = time.monotonic() + wait_s, FIRST_PAUSE_S
    while not unwanted():
        left = deadline - time.monotonic()
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=max(left, FIRST_PAUSE_S)
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmError(f"{command[0]} does not answer within {wait_s:g} s", away=True) from error
        except OSError as error:
            raise SlurmError(f"{command[0]} cannot be run ({error})", away=False) from error
        if ended.returncode <= 0:
            return ended
        reason = ended.stderr.strip() or f"exit status {ended.returncode}"
        if not AWAY.search(reason):
            raise SlurmError(f"{command[0]}: {reason}", away=False)
        if left < pause:
            raise SlurmError(f"{command[0]}: {reason} (for {wait_s:g} s)", away=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    return None
