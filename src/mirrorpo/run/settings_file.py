"""`settings.txt` beside a cell's seeds: what the hash in its folder's name stands for. Imports no torch."""

from mirrorpo.config.cell import Cell
from mirrorpo.run.disk import write_atomic
from mirrorpo.run.folder import RunFolder

NAME = "settings.txt"


def write_settings(cell: Cell, folder: RunFolder) -> None:
    """Write down which settings of a cell differ from those of its named choices; nothing where none does.

    Args:
        cell: what runs.
        folder: where it writes, which is not the cell's folder for all but the first of several processes.
    """
    path = cell.folder.parent / NAME
    if folder.path == cell.folder and cell.settings and not path.exists():
        write_atomic(path, "".join(f"{key}={value}\n" for key, value in sorted(cell.settings.items())))
