"""What a launch ends with, for whoever calls a plug-in, and for the command line. Imports no torch."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class LaunchError(ValueError):
    """A launch that cannot be, or go on: the setting, its value, the cure, in one line."""


class CellsFailed(LaunchError):
    """Every cell had its turn, and some failed.

    Attributes:
        reasons: of each that failed, by its command line's own part.
        unstarted: whether some could not even be started, and the same command starts them later.
    """

    def __init__(self, reasons: Mapping[str, str], count: int, *, unstarted: bool = False) -> None:
        super().__init__(f"{len(reasons)} of {count} cells failed: {next(iter(reasons.values()))}")
        self.reasons, self.unstarted = dict(reasons), unstarted


@contextmanager
def one_line() -> Iterator[None]:
    """The command line ends a launch error, or a name that is not there, with its one line, where Hydra would
    print a stack.

    Of cells that failed the launcher has said everything: exit status 1 and no more.
    """
    # Imported here, so that whoever only names an error does not wait for Hydra.
    from hydra._internal import utils as hydra_command_line

    report = hydra_command_line.run_and_report

    def run_and_report(function: Callable[[], T]) -> T:
        return report(lambda: _in_one_line(function))

    hydra_command_line.run_and_report = run_and_report
    try:
        yield
    finally:
        hydra_command_line.run_and_report = report


def _in_one_line(function: Callable[[], T]) -> T:
    try:
        return function()
    except Exception as error:
        launch_error = _launch_error(error)
        reason = composition_error(error)
        if reason is not None:
            raise SystemExit(f"error: {reason}") from error
        if launch_error is None:
            raise
        raise SystemExit(1 if isinstance(launch_error, CellsFailed) else f"error: {launch_error}") from error


def composition_error(error: Exception) -> str | None:
    """A line on what Hydra cannot compose; None for any other error.

    A setting or a choice that is not there, with the nearest that are, or a value of another type.
    """
    from hydra.errors import ConfigCompositionException, MissingConfigException

    from mirrorpo.launch.help import no_such, no_such_choice

    if isinstance(error, MissingConfigException):
        group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
        return no_such_choice(group, choice, list(error.options)) if group and error.options else None
    if not isinstance(error, ConfigCompositionException):
        return None
    if match := re.match(r"Could not (?:override|append|delete)[^']*'([^'=]+)", str(error)):
        if place := re.search(r"Did you mean to override (\S+@\S+)\?", str(error)):
            return f"{match[1]}: the group is chosen for a place; give {place[1]}=CHOICE"
        return None if match[1].startswith("hydra.") else no_such(match[1], _chosen(match[1], error))
    if match := re.match(r"Error merging override (.+)", str(error)):
        cause = str(error.__cause__ or error).splitlines()
        return f"{match[1]}: {cause[0]}"
    return None


def _chosen(name: str, error: Exception) -> Mapping[str, object] | None:
    # What stands in the group of a setting that is not there; empty where nothing does, None if not known.
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    cause = error.__cause__
    parent = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if parent is None:
        return None
    root, group = parent._get_root(), name.split(".")[0]
    node = root._get_node(group, validate_access=False) if isinstance(root, DictConfig) else None
    if not isinstance(node, DictConfig):
        return None
    return {} if node._is_none() else {"_target_": node.get("_target_")}


def _launch_error(error: BaseException | None) -> LaunchError | None:
    # Hydra wraps what a plug-in raises while it is built.
    while error is not None and not isinstance(error, LaunchError):
        error = error.__cause__
    return error
