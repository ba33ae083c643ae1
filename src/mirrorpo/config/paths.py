"""Where the package, its config folders and the tree that it is read from are. Imports no torch."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def tree() -> Path | None:
    """The clone, or the copy of one, that the package is imported from; None where it is installed."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "src" and (root / "conf" / "train.yaml").is_file() else None


def code() -> Path:
    """What a run names as its code: the tree, or the installed package."""
    return tree() or PACKAGE


def conf() -> Path:
    """The config folder: a clone's own, or the one that was installed with the package."""
    return code() / "conf"


def sweeps() -> Path:
    """The folder that holds `sweep/`, beside the config folder."""
    return code() / "sweeps"


def file_of_sweep(name: str) -> Path:
    """The file of a sweep, as it is now."""
    return sweeps() / "sweep" / f"{name}.yaml"


def command(module: str) -> str:
    """How a usage line names a command: `mirrorpo NAME` where it was started so, else `python -m MODULE`."""
    return sys.argv[0] if sys.argv[0].split(" ")[0] == "mirrorpo" else f"python -m {module}"
