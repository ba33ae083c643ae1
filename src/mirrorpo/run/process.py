"""Which process is meant, though process ids are used again. Imports no torch."""

from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


def started(pid: int) -> str | None:
    """When a process of this machine was started, as a word that no other process of that id has.

    It is the machine's start and the kernel's ticks since then; None where there is no such process, or no
    /proc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = BOOT.read_text().strip()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]
    # A zombie has ended, and waits for its parent only.
    return None if state in ("Z", "X") else f"{boot}:{ticks}"
