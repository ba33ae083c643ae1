"""An object of a config's node, checked against the contract of its group."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from hydra.utils import instantiate

from mirrorpo.config.typed import located, parameters
from mirrorpo.core.protocols import Config

T = TypeVar("T")

# What a number, a text or a switch is called in a message.
KINDS: Mapping[type[object], str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
}


def without(node: object, group: str, *names: str) -> tuple[Config, Config]:
    """A node's settings without some of them, and those: they belong to another object than its class.

    Raises:
        ValueError: if the node is no mapping.
    """
    if not isinstance(node, Mapping):
        raise ValueError(f"{group}={node}: give a class by _target_")
    settings = cast("Config", node)
    return (
        {key: value for key, value in settings.items() if key not in names},
        {key: settings[key] for key in names if key in settings},
    )


def build_object(node: object, group: str, contract: type[T]) -> T:
    """The object of a node.

    Raises:
        ValueError: naming the group, if its class refuses a setting or keeps no such contract.
    """
    return checked(instantiated(node, group), node, group, contract)


def instantiated(node: object, group: str) -> object:
    """The object of a node, whatever it is.

    Raises:
        ValueError: naming the group, if its class refuses a setting.
    """
    refuse_wrong_values(node, group)
    try:
        return instantiate(node, _convert_="all")
    except Exception as error:
        # Hydra says in three lines that there is no such class.
        cause = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{group}: {cause}{_leftover_settings(node, group)}") from error


def checked(part: object, node: object, group: str, contract: type[T]) -> T:
    """An object that keeps a contract.

    Args:
        part: the object.
        node: that it was made of.
        group: of the config.
        contract: the protocol.

    Raises:
        ValueError: naming what it lacks.
    """
    if not isinstance(part, contract):
        target = cast("Config", node).get("_target_") if isinstance(node, Mapping) else node
        lacking = [name for name in _members(contract) if not hasattr(part, name)]
        raise ValueError(
            f"{group}: {target} gave a {type(part).__name__}, which is no {contract.__name__}"
            + (f": it lacks {', '.join(lacking)}" if lacking else "")
        )
    return part


def _leftover_settings(node: object, path: str) -> str:
    """What to do where a node has settings that its class does not take; empty where it has none."""
    if not isinstance(node, Mapping):
        return ""
    settings = cast("Config", node)
    accepted = parameters(str(settings["_target_"])) if "_target_" in settings else None
    taken = settings.keys() if accepted is None else accepted
    extra = [key for key in settings if not key.startswith("_") and key not in taken]
    if extra:
        target = settings["_target_"]
        near = [(key, name) for key in extra for name in get_close_matches(key, taken, 1, cutoff=0.8)]
        if near:
            return ". " + "; ".join(f"{path}.{key}: did you mean {path}.{name}?" for key, name in near)
        return (
            f". {path} has {', '.join(extra)}, which {target} does not take: a file that names another class "
            f"keeps the settings of the one before; {path}={{_target_: {target}}} on the command line drops "
            "them, and so does a group's file of your own with the entire node"
        )
    below = (_leftover_settings(value, f"{path}.{key}") for key, value in settings.items())
    return next((text for text in below if text), "")


def _members(contract: type[object]) -> list[str]:
    named = {
        name for base in contract.__mro__ for name in vars(base) if base.__module__.startswith("mirrorpo.")
    }
    return sorted(name for name in named if name == "__call__" or not name.startswith("_"))


def refuse_wrong_values(node: object, path: str) -> None:
    """Refuse values that are not of the types their classes state.

    Group files have no schema; the annotations of the dataclasses they build are one.

    Args:
        node: of a config.
        path: where it stands.

    Raises:
        ValueError: naming the setting.
    """
    if isinstance(node, list):
        for index, item in enumerate(cast("list[object]", node)):
            refuse_wrong_values(item, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    settings = cast("Config", node)
    hints = _annotations(settings)
    for key, value in settings.items():
        hint, knob = hints.get(key), f"{path}.{key}"
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{knob}={value}: choose one of {', '.join(map(str, get_args(hint)))}")
        if isinstance(hint, type) and hint in KINDS and not _is_a(value, hint):
            raise ValueError(f"{knob}={value!r}: give {KINDS[hint]}")
        refuse_wrong_values(value, knob)


def _is_a(value: object, hint: type[object]) -> bool:
    # A bool is an int to Python.
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _annotations(node: Config) -> Mapping[str, object]:
    if "_target_" not in node:
        return {}
    try:
        return get_type_hints(located(node["_target_"]))
    except (ImportError, ValueError, NameError, TypeError):
        # A class that is missing is for instantiate to report, with its group; one without hints has none.
        return {}
