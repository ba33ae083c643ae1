"""The first process of a worker: it waits for all others, and sees what a program keeps on disk.

A judge that dies leaves a fork server and programs, which come to this process, so that none of them stays
behind in a container whose first process waits for nobody. Behind bubblewrap it is the first of its process
numbers. Without it, it looks at programs for the fork server, since a file that was removed while it is open
or mapped takes room in no folder: Landlock keeps the server from `/proc`, as it keeps its children.

Runs inside the sandbox's worker (`judge`), so it may import the standard library and its siblings only.
"""

import os
import select
import signal
import socket
import stat
import struct

from mirrorpo.reward.sandbox import lock

PID, BYTES = struct.Struct("<i"), struct.Struct("<q")
FULL = 1 << 62  # what cannot be looked at
FILE_BYTES = 8 << 20  # of a removed file that is only mapped, whose size nobody tells
LONGEST_MAPS = 1 << 20  # bytes; a longer list of mappings cannot be looked at
ANONYMOUS = b"/dev/zero (deleted)"  # what memory that is shared is called


def part_from_keeper(server: int, requests: socket.socket) -> None:
    """Go on as a child of this process, which stays behind as the keeper.

    Args:
        server: the fork server, a child.
        requests: the keeper's end of its channel with the server.
    """
    ended, _ = os.pipe()
    judge = os.fork()
    if judge == 0:
        # Its other end stays open for as long as this process lives.
        os.close(ended)
        requests.close()
        return
    status = 1 << 8
    try:
        _forget_descriptors({requests.fileno(), ended})
        lock.die_with_parent()
        lock.adopt_orphans()
        _answer(requests, ended)
        _, status = os.waitpid(judge, 0)
        end(server)
        end_children()
    finally:
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


def held(pid: int) -> int:
    """Bytes of removed files that a process has open or mapped; `FULL` if that cannot be seen."""
    sizes: dict[int, int] = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                about = os.stat(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                continue  # closed by now
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 0:
                sizes[about.st_ino] = about.st_blocks * 512
        # What this process has too is of the interpreter, which somebody may have replaced.
        inodes = mapped(pid)
        for inode in inodes and inodes - mapped("self"):
            sizes.setdefault(inode, FILE_BYTES)
    except (OSError, ValueError):
        return 0 if _has_ended(pid) else FULL
    return sum(sizes.values())


def mapped(pid: int | str) -> set[int]:
    """Numbers of removed files that a process has mapped, and of those whose path is too long to be shown.

    Raises:
        ValueError: if there are too many mappings to read.
    """
    with open(f"/proc/{pid}/maps", "rb") as file:
        text = file.read(LONGEST_MAPS)
        if file.read(1):
            raise ValueError(f"more than {LONGEST_MAPS} bytes of mappings")
    inodes: set[int] = set()
    for line in text.splitlines():
        *_, inode, path = (*line.split(None, 5), b"")[:6]
        if inode != b"0" and path != ANONYMOUS and (not path or path.endswith(b" (deleted)")):
            inodes.add(int(inode))
    return inodes


def end_children(spared: int = 0) -> None:
    """Kill and wait for this process's children, but one; those that they leave come to this process."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                left = [child for child in map(int, file.read().split()) if child != spared]
        except FileNotFoundError:
            return  # a kernel without that list, or bubblewrap, which ends them with this process
        if not left:
            return
        for child in left:
            end(child)


def end(child: int) -> None:
    """Kill and wait for a child."""
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _forget_descriptors(kept: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    numbers = sorted(kept)
    for first, last in zip([2, *numbers], [*numbers, 4096], strict=True):
        os.closerange(first + 1, last)


def _answer(requests: socket.socket, ended: int) -> None:
    # Until the judge is gone.
    poller = select.poll()
    for descriptor in (requests.fileno(), ended):
        poller.register(descriptor, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if ended in ready:
            return
        message = requests.recv(PID.size)
        if len(message) == PID.size:
            (pid,) = PID.unpack(message)
            requests.sendall(BYTES.pack(held(pid)))
        else:
            poller.unregister(requests.fileno())  # the server is gone, and the judge will see it


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return os.path.isdir("/proc/self")
    except OSError:
        return False
