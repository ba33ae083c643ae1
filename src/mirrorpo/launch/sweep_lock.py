"""One launcher at a time asks what is left of a sweep and starts it. Imports no torch."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".launching"
CLAIM = ".launcher"


@contextmanager
def sweep_lock(sweep: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a sweep from asking what is left of it until that is submitted.

    It waits for another launcher that holds it. The lock goes with the process, however it ends. On a file
    system without locks there is none, which is said.

    Args:
        sweep: its folder, which exists.
        say: prints a line.
    """
    with (sweep / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another launcher is submitting cells of {sweep}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            say(
                f"note: {sweep} is on a file system without locks ({error.strerror}): two launchers at the "
                "same time would submit its cells twice; start one after the other"
            )
        yield


@contextmanager
def claimed(run: Path) -> Iterator[bool]:
    """Whether this launcher may start a run: another one that started it has it until it ends.

    The run's own lock comes seconds later, when it has loaded what it needs.

    Args:
        run: its folder, which exists.
    """
    with (run / CLAIM).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            # A file system without locks.
            pass
        yield True
