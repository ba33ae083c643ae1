"""What commands that measure a cell have in common: its overrides, its config, and an error in a line."""

import sys
from collections.abc import Callable, Sequence

from hydra import compose
from hydra.errors import HydraException

from mirrorpo.config.schema import check, resolved
from mirrorpo.core.protocols import Config

# A cell that is measured draws no bar, and neither tracks nor probes.
QUIET = ("drift_questions=0", "tracking=none", "progress=false")


def composed(overrides: Sequence[str], *choices: str) -> Config:
    """The config of a cell, quiet; Hydra is set up for the shipped configs.

    Args:
        overrides: of the command line.
        choices: further overrides, which count where both are given.

    Raises:
        ValueError: naming the setting.
    """
    cfg = compose("train", overrides=[*overrides, *choices, *QUIET])
    check(cfg)
    return resolved(cfg)


def listed(overrides: Sequence[str], setting: str) -> list[str]:
    """The values of a setting that the overrides list; none where they do not name it.

    Example:
        >>> listed(["model=tiny", "divergence=kl,probl2"], "divergence")
        ['kl', 'probl2']
    """
    given = [text.partition("=")[2] for text in overrides if text.startswith(f"{setting}=")]
    return given[-1].split(",") if given else []


def without(overrides: Sequence[str], *settings: str) -> list[str]:
    """The overrides of other settings.

    Example:
        >>> without(["model=tiny", "divergence=kl", "divergence.beta=1"], "divergence")
        ['model=tiny', 'divergence.beta=1']
    """
    return [text for text in overrides if text.partition("=")[0] not in settings]


def or_exit(command: Callable[[], None]) -> None:
    """Run a command; end the process, with the error in a line, where it refuses what it was given."""
    try:
        command()
    except (ValueError, HydraException) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
