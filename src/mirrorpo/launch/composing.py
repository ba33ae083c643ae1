"""Commands other than `train.py` that compose a cell's config, and end in one line where it is none."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from mirrorpo.config import paths
from mirrorpo.config.schema import register
from mirrorpo.launch.errors import composition_error


@contextmanager
def composing() -> Iterator[None]:
    """Hydra set up for the shipped configs."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        yield


def exit_status(command: Callable[[], None]) -> int:
    """Run a command; 1, with its error in a line, where it refuses what it was given."""
    try:
        command()
    except HydraException as error:
        print(f"error: {composition_error(error) or error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
