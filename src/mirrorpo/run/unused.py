"""Takes away the folder of a run that was refused before it had anything to write. Imports no torch."""

from contextlib import suppress

from mirrorpo.run.folder import RunFolder

LOCK = ".lock"


def remove_unused(folder: RunFolder) -> None:
    """Remove a run's folder that holds no more than its lock, and the folders above if left empty."""
    path = folder.path
    if not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir()):
        return
    # Somebody may have put something there meanwhile; then it stays.
    with suppress(OSError):
        (path / LOCK).unlink(missing_ok=True)
        for empty in (path, *path.parents[:2]):
            empty.rmdir()
