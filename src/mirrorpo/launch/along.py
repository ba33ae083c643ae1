"""Settings that come along with a choice of a grid, each of one value or of several. Imports no torch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mirrorpo.config.override_text import override_of
from mirrorpo.launch.arguments import quoted_paths
from mirrorpo.launch.errors import LaunchError

_FORM = "give each choice its settings, as {divergence=kl: {divergence.beta: 0.5}}"


def with_along(cell: Sequence[str], along: Mapping[str, Mapping[str, object]]) -> list[list[str]]:
    """A cell with the settings that come along with its choices; what it has already stays as it is.

    Args:
        cell: its overrides.
        along: further settings by the override that they come with; one with several values, written as on a
            command line, makes a cell of each.

    Example:
        >>> with_along(["divergence=kl", "seed=0"], {"divergence=kl": {"divergence.beta": 0.5}})
        [['divergence=kl', 'seed=0', 'divergence.beta=0.5']]
        >>> with_along(["divergence=kl", "divergence.beta=1"], {"divergence=kl": {"divergence.beta": 0.5}})
        [['divergence=kl', 'divergence.beta=1']]
        >>> with_along(["divergence=kl"], {"divergence=kl": {"divergence.beta": "0.1,1"}})
        [['divergence=kl', 'divergence.beta=0.1'], ['divergence=kl', 'divergence.beta=1']]

    Raises:
        LaunchError: if two of its choices bring one setting with other values, or one has an interval.
    """
    given = {_key(override) for override in cell}
    coming: dict[str, tuple[str, str]] = {}
    for choice in cell:
        for setting, value in along.get(choice, {}).items():
            override = _coming(setting, value)
            first, other = coming.setdefault(_key(setting), (choice, override))
            if override != other and _key(setting) not in given:
                raise LaunchError(
                    f"hydra.sweeper.along: a cell has {first}, which brings {other}, and {choice}, which "
                    f"brings {override}; leave one of them out"
                )
    further = [values_of(override) for key, (_, override) in coming.items() if key not in given]
    return [[*cell, *settings] for settings in itertools.product(*further)]


def unmatched(cells: Sequence[Sequence[str]], along: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The choices that no cell has, so that what comes along with them is set nowhere.

    Example:
        >>> unmatched([["divergence=kl"]], {"divergence=kl": {"lr": 1}, "divergence=k1": {"lr": 2}})
        ['divergence=k1']
    """
    return sorted(along.keys() - {choice for cell in cells for choice in cell})


def refuse_malformed(along: object) -> None:
    """Check that settings come along with each choice.

    Raises:
        LaunchError: naming the choice.
    """
    if not isinstance(along, Mapping):
        raise LaunchError(f"hydra.sweeper.along={along}: {_FORM}")
    for choice, settings in along.items():
        if not isinstance(settings, Mapping):
            raise LaunchError(f"hydra.sweeper.along: {choice}: {settings}: {_FORM}")


def _coming(setting: str, value: object) -> str:
    (override,) = quoted_paths([override_of(setting, value)])
    return override


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def values_of(override: str) -> list[str]:
    """An override for each value that one names; itself where it is none of several values.

    Example:
        >>> values_of("seed=range(2)"), values_of("lr=0.1")
        (['seed=0', 'seed=1'], ['lr=0.1'])
    """
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        # Hydra says what is wrong with it where the cell is composed.
        return [override]
    refuse_interval(parsed)
    if not parsed.is_sweep_override():
        return [override]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def refuse_interval(override: Override) -> None:
    """Check that an override has values that can be listed.

    Raises:
        LaunchError: naming it.
    """
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise LaunchError(
            f"{override.input_line}: a grid takes no interval; list the values, as "
            f"{override.get_key_element()}=0.1,1"
        )


def written_in(sweeper: Mapping[str, Any], typed: Sequence[str]) -> list[str]:
    """The overrides of a sweeper's `params`, and those of several values of `along`, that were not typed."""
    named = {override.split("=")[0] for override in typed}
    params: Mapping[str, object] = sweeper.get("params") or {}
    along: Mapping[str, Mapping[str, object]] = sweeper.get("along") or {}
    several = [
        (key, value)
        for settings in along.values()
        for key, value in settings.items()
        if len(values_of(_coming(key, value))) > 1
    ]
    return list(
        dict.fromkeys(
            override_of(key, value) for key, value in [*params.items(), *several] if key not in named
        )
    )
