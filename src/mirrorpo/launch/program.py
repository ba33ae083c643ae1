"""How a launch is started as a process, in a clone and from an installed package. Imports no torch."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

SCRIPT = "train.py"
MODULE = ("-m", "mirrorpo", "train")


def program() -> list[str]:
    """Python's arguments that start a launch: `train.py` as it was given, or the package's own command."""
    return [sys.argv[0]] if Path(sys.argv[0]).name == SCRIPT else list(MODULE)


def is_launch(command: Sequence[str]) -> bool:
    """Whether a process's command line is a launch.

    Example:
        >>> is_launch(["python", "../train.py", "seed=1"]), is_launch(["python", "/bin/mirrorpo", "train"])
        (True, True)
        >>> is_launch(["python", "-m", "mirrorpo", "status", "train"])
        False
    """
    names = [Path(word).name for word in command]
    return SCRIPT in names or ("mirrorpo", "train") in pairwise(names)
