"""Where a mirror map's file is: a path, or one that ships with the package."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

SHIPPED = "mirrorpo:"


def map_file(path: str) -> Traversable | Path:
    """The file of a path, or of `mirrorpo:<name>` in `divergence/maps`.

    >>> map_file("mirrorpo:generation").name, map_file("/folder/map.json").name
    ('generation.json', 'map.json')
    """
    return (
        files("mirrorpo.divergence") / "maps" / f"{path.removeprefix(SHIPPED)}.json"
        if path.startswith(SHIPPED)
        else Path(path)
    )
