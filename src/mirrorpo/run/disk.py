"""Writes that survive a dying machine, and writes that a disk refuses. Imports no torch.

A full disk ends a run with one line. Its manifest can still say so, because each run keeps a reserve, a file
that is removed to make room for the manifest.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mirrorpo.run.errors import DiskError

# What a disk, a quota or a file server refuses, as opposed to faults of the program.
REFUSALS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file too large",
    errno.EROFS: "read-only file system",
    errno.EIO: "input/output error",
    errno.ESTALE: "stale file handle",
}
# Libraries in other languages, and other ranks, give the number in a text of their own.
NUMBERED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")

RESERVE = ".reserve"
RESERVE_BYTES = 128 * 1024  # some ten times a manifest


def refusal(error: BaseException) -> str | None:
    """What the disk said behind an error, such as `no space left`; None where it was something else."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (match := NUMBERED.search(str(link))):
            number = int(match.group(1) or match.group(2))
        if number in REFUSALS:
            return REFUSALS[number]
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Around writes to a folder.

    Raises:
        DiskError: if the disk refuses one, instead of the many forms that this takes in libraries.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (refused := refusal(error)) is None:
            raise
        raise DiskError(f"out: {refused}, {folder}, resume with the same command") from error


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a machine that dies, sees the old or the new one whole.

    Raises:
        DiskError: if there is no room for it, or the like; the old one is left as it is.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes another one's place, as `write_atomic` has it, once all of it is written.

    Raises:
        DiskError: if there is no room for it, or the like; the old one is left as it is.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing_to(path.parent):
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reserve(folder: Path) -> Iterator[None]:
    """Keep room in a folder for its manifest while a run writes to it.

    Raises:
        DiskError: if there is no room now.
    """
    path = folder / RESERVE
    with writing_to(folder), path.open("wb") as file:
        # Random, since a file system may store zeros as nothing.
        file.write(os.urandom(RESERVE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        yield
    finally:
        release(folder)


def release(folder: Path) -> None:
    """Give up the reserve."""
    with suppress(OSError):
        (folder / RESERVE).unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_first(path: Path, size: int) -> str:
    """sha256 of a file's first bytes, of all of it where it is shorter."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def aside(path: Path, why: str) -> Path:
    """A free name beside a file or folder, to keep it under.

    Example:
        >>> aside(Path("/nowhere/metrics.jsonl"), "damaged").name
        'metrics.damaged.jsonl'
    """
    free, number = path.with_name(f"{path.stem}.{why}{path.suffix}"), 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{why}.{number}{path.suffix}")
    return free


def copy_aside(path: Path, why: str) -> Path:
    """Keep a file as it is under another name, beside the one that will go on."""
    free = aside(path, why)
    with writing_to(path.parent):
        shutil.copyfile(path, free)
    return free
