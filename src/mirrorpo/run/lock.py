"""Who runs in a folder. Imports no torch.

The lock is the kernel's and goes with its process, however that ends. Some network file systems have no such
locks; there the process that is written in the file is looked for, which only its own machine can do.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path

from mirrorpo.run.process import started

log = logging.getLogger(__name__)

# Lustre without `-o flock`, NFS without its lock daemon, some FUSE file systems.
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# Where the kernel has locks of another kind behind flock, a held one is EACCES.
HELD = (errno.EWOULDBLOCK, errno.EACCES)


class Held(Exception):
    """Another process has the lock."""


def take(handle: int, path: Path) -> None:
    """Lock an open file for this process, or write into it that this process would.

    Args:
        handle: of the file, opened to read and to write.
        path: of the file, for the one warning where its file system has no locks.

    Raises:
        Held: if another process has it.
        OSError: if the file system fails otherwise.
    """
    if not _locked(handle):
        if _alive(os.pread(handle, 1000, 0)):
            raise Held
        log.warning("%s: this file system has no locks; start this run in one process at a time", path.parent)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(_this_process()).encode(), 0)


def drop(handle: int) -> None:
    """Close the file, and with it give up the lock."""
    os.ftruncate(handle, 0)
    os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process has the lock of a file, as far as this machine can see."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno in HELD or (error.errno in NO_LOCKS and _alive(file.read(1000)))
    except OSError:
        return False
    return False


def _locked(handle: int) -> bool:
    # Twice: whoever asks `is_held` has the lock for an instant.
    for last in (False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            if error.errno not in HELD:
                raise
            if last:
                raise Held from error
            time.sleep(0.2)
    return False


def _this_process() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}


def _alive(content: bytes) -> bool:
    try:
        holder = json.loads(content)
        host, pid, start = holder["host"], int(holder["pid"]), holder["started"]
    except (ValueError, KeyError, TypeError):
        return False
    return host == socket.gethostname() and start is not None and started(pid) == start
