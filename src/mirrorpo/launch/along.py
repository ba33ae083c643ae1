"""Settings that come along with a choice of a grid, each of one value or of several. Imports no torch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


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
    """
    given = {override.lstrip("+").partition("=")[0] for override in cell}
    further = [
        values_of(f"{setting}={value}")
        for choice in cell
        for setting, value in along.get(choice, {}).items()
        if setting not in given
    ]
    return [[*cell, *settings] for settings in itertools.product(*further)]


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
    if not parsed.is_sweep_override():
        return [override]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def written_in(sweeper: Mapping[str, Any], typed: Sequence[str]) -> list[str]:
    """The overrides of a sweeper's `params`, and those of several values of `along`, that were not typed."""
    named = {override.split("=")[0] for override in typed}
    params: Mapping[str, object] = sweeper.get("params") or {}
    along: Mapping[str, Mapping[str, object]] = sweeper.get("along") or {}
    several = [
        (key, value)
        for settings in along.values()
        for key, value in settings.items()
        if len(values_of(f"{key}={value}")) > 1
    ]
    return list(
        dict.fromkeys(f"{key}={value}" for key, value in [*params.items(), *several] if key not in named)
    )
