"""Hashes of files by content; those of large files are remembered between processes. Imports no torch."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mirrorpo.config.identity import digest
from mirrorpo.run.disk import file_digest

# Below this size a file is read each time: that costs less than looking the hash up is worth.
REMEMBERED_FROM = 16 * 2**20
# Two writes within one tick of a file system's clock leave the same time. A hash is remembered only once
# the last change is older than any such tick.
SETTLED_S = 2.0


def file_hash(path: Path) -> str:
    """16 hexadecimal digits over a file's bytes.

    The hash of a large file is remembered by size, times and inode. The time of change (ctime) is among
    them: a program can put the time of modification back after a write, but not that one.
    """
    status = path.stat()
    if status.st_size < REMEMBERED_FROM:
        return _read(path)
    signature = _signature(status)
    remembered = _folder() / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    if (known := _remembered(remembered, signature)) is not None:
        return known
    value = _read(path)
    settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    if settled and _signature(path.stat()) == signature:
        _remember(remembered, {"path": str(path.resolve()), "signature": signature, "hash": value})
    return value


def files_hash(files: Mapping[str, Path]) -> str:
    """16 hexadecimal digits over several files and their names."""
    hashes = {name: file_hash(path) for name, path in files.items()}
    return digest(hashes)[:16]


def _read(path: Path) -> str:
    return file_digest(path)[:16]


def _signature(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "mirrorpo" / "hashes"


def _remembered(path: Path, signature: list[int]) -> str | None:
    try:
        entry = json.loads(path.read_text())
        return str(entry["hash"]) if entry["signature"] == signature else None
    except (OSError, ValueError, KeyError, TypeError):
        # Absent, or left by a process that was killed: the file is read again.
        return None


def _remember(path: Path, entry: Mapping[str, object]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    # Without a folder to write to, as on some nodes, nothing is remembered.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(entry))
        beside.replace(path)
