"""Which process is meant, though process ids are used again. Imports no torch."""

from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


def started(pid: int) -> str | None:
    """When a process of this machine was started, as a word that no other process of that id has.

    It is the machine's start and the kernel's ticks since then; None where there is no such process, or no
    /proc.
    """
    try:
        boot = BOOT.read_text().strip()
    except OSError:
        return None
    fields = _stat(pid)
    # A zombie has ended, and waits for its parent only.
    return None if not fields or fields[0] in ("Z", "X") else f"{boot}:{fields[19]}"


def parent(pid: int) -> int | None:
    """The process that started a process of this machine; None where there is none."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process behind its name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
