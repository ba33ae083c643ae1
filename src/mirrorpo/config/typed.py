"""What a command line meant by a node where Hydra's merge says something else. Imports no torch.

Hydra merges `key={...}` into what stands at the key. So `{}` clears nothing, and another `_target_` gets the
settings of the class that it takes the place of.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

TARGET = "_target_"

# Settings that stand in a group and belong to another object than the group's own class.
OF_ANOTHER_OBJECT: Mapping[str, Sequence[str]] = {
    "divergence": ("beta", "anchor", "placement"),
    "rollout": ("lag", "coarse", "coarse_value"),
    "weighting": ("scope",),
    "weighting.weighting": ("scope",),
}


@dataclass(frozen=True, slots=True)
class Typed:
    """One override.

    Attributes:
        path: the dotted key that it sets.
        value: a plain value; text for the choice of a group.
        group: whether it chooses a group's file.
    """

    path: str
    value: object
    group: bool


def with_new_keys(arguments: Sequence[str]) -> list[str]:
    """A command line whose nodes with a `_target_` may bring keys that nothing had at their place.

    Example:
        >>> with_new_keys(["algo.aggregate={_target_: my.Mean, length: 60}", "seed=1"])
        ['++algo.aggregate={_target_: my.Mean, length: 60}', 'seed=1']
    """
    return [f"++{argument}" if _names_a_class(argument) else argument for argument in arguments]


def _names_a_class(argument: str) -> bool:
    key, equals, value = argument.partition("=")
    return bool(equals) and key[:1] not in "+~-" and value.startswith("{") and TARGET in value


def apply_typed(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Empty the nodes that were typed as `{}`, and drop what classes that were typed do not take.

    Args:
        cfg: what Hydra composed; changed in place.
        overrides: of the command line.

    Returns:
        Notes: which settings were dropped.
    """
    typed = [entry for override in _parsed(overrides) if (entry := _typed(override)) is not None]
    with open_dict(cfg):
        for index, entry in enumerate(typed):
            if entry.value == {} and not entry.group:
                _clear(cfg, entry.path, typed[index + 1 :])
        return [note for path in _classes(typed) for note in _drop_leftovers(cfg, path, typed)]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _typed(override: Override) -> Typed | None:
    if override.is_delete() or override.is_sweep_override():
        return None
    path = override.package or override.key_or_group.replace("/", ".")
    return Typed(path, override.value(), override.package is not None or "/" in override.key_or_group)


def _clear(cfg: DictConfig, path: str, later: Sequence[Typed]) -> None:
    if not isinstance(OmegaConf.select(cfg, path), DictConfig):
        return
    OmegaConf.update(cfg, path, {}, merge=False)
    for entry in later:
        if entry.path == path or entry.path.startswith(f"{path}."):
            OmegaConf.update(cfg, entry.path, entry.value, merge=True, force_add=True)


def _classes(typed: Sequence[Typed]) -> list[str]:
    """The nodes whose class was typed."""
    paths = [path for entry in typed for path in _targets(entry.path, entry.value)]
    return list(dict.fromkeys(paths))


def _targets(path: str, value: object) -> Iterator[str]:
    if path.endswith(f".{TARGET}"):
        yield path.removesuffix(f".{TARGET}")
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _targets(f"{path}.{key}", inner)


def _drop_leftovers(cfg: DictConfig, path: str, typed: Sequence[Typed]) -> Iterator[str]:
    node = OmegaConf.select(cfg, path)
    if not isinstance(node, DictConfig):
        return
    accepted = parameters(str(node.get(TARGET)))
    if accepted is None:
        return
    meant = {*accepted, *OF_ANOTHER_OBJECT.get(path, ()), *_keys_below(path, typed)}
    leftover = [str(key) for key in node if str(key) not in meant and not str(key).startswith("_")]
    for key in leftover:
        del node[key]
    if leftover:
        yield f"{path}: {', '.join(leftover)} left out, which {node[TARGET]} does not take"


def _keys_below(path: str, typed: Sequence[Typed]) -> set[str]:
    """The keys of a node that the command line sets itself."""
    out: set[str] = set()
    for entry in typed:
        if entry.path.startswith(f"{path}."):
            out.add(entry.path.removeprefix(f"{path}.").split(".")[0])
        elif path == entry.path or path.startswith(f"{entry.path}."):
            value = entry.value
            for key in path.removeprefix(entry.path).split(".")[1:]:
                value = value.get(key) if isinstance(value, dict) else None
            out |= {str(key) for key in value} if isinstance(value, dict) else set()
    return out


def parameters(target: str) -> set[str] | None:
    """The names of what a class takes; None where it takes anything, or there is no such class."""
    try:
        signature = inspect.signature(located(target))
    except (ImportError, ValueError, TypeError):
        # The build reports a class that is missing, with its group.
        return None
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else set(signature.parameters)


def located(target: str) -> Callable[..., object]:
    """What a `_target_` names, without the lines that Hydra logs where there is no such thing.

    Raises:
        ImportError: if there is none.
    """
    log = logging.getLogger(get_object.__module__)
    before, log.disabled = log.disabled, True
    try:
        return get_object(target)
    finally:
        log.disabled = before
