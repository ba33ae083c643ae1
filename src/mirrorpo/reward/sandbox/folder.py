"""Folders that programs write to where there is no bubblewrap, and what a killed trainer leaves of them."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "mirrorpo-sandbox-"
FRESH_S = 60.0  # one that is younger may not be locked yet


class Folder:
    """One worker's folder; it is locked as long as this process lives.

    Args:
        user: whose it is; -1 for this process's.

    Attributes:
        path: where it is.
    """

    def __init__(self, user: int) -> None:
        self.path = tempfile.mkdtemp(prefix=PREFIX)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        # Not every file system has locks; without one nothing is swept.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if user >= 0:
            os.chown(self.path, user, user)

    def remove(self) -> None:
        """Remove it and all that it holds."""
        os.close(self._descriptor)
        _remove(self.path)


def sweep(users: set[int]) -> int:
    """Remove the folders of these users that no process holds any more; how many there were."""
    count = 0
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is another's, or gone by now
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                about = os.fstat(descriptor)
                if about.st_uid in users and time.time() - about.st_mtime > FRESH_S:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(str(path))
                    count += 1
            finally:
                os.close(descriptor)
    return count


def _remove(path: str) -> None:
    # A program can nest folders deeper than rmtree goes; such a folder stays.
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
