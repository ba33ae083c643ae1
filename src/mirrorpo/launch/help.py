"""`python train.py -h [NAME ...]`: the settings with their comments; nearest names. Imports no torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap

import yaml

from mirrorpo.config import paths
from mirrorpo.config.schema import TrainConfig
from mirrorpo.config.values import JsonObject

FLAGS = ("-h", "--help")
WIDTH = 110
USAGE = """\
usage: python train.py [-m] [GROUP=CHOICE ...] [SETTING=VALUE ...]
       python train.py -h NAME ...    a group, a choice (divergence=kl) or a setting (steps, divergence.beta)

With -m, values with commas make a grid. --cfg job prints the composed config, --hydra-help Hydra's flags."""
SETTING = re.compile(r"^(?P<name>\w+): *(?P<value>[^#]*?) *(?:# *(?P<comment>.*))?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A line of a config file: a key, its value and its comment."""

    name: str
    value: str
    comment: str

    def line(self, width: int) -> str:
        """The setting for a person, its comment wrapped below itself."""
        head = f"  {self.name:{width}} {self.value:10}"
        first, *rest = wrap(self.comment, max(WIDTH - len(head) - 1, 30)) or [""]
        return "\n".join([f"{head} {first}".rstrip(), *(" " * len(head) + f" {line}" for line in rest)])


def requested(arguments: Sequence[str]) -> list[str] | None:
    """The names that help is wanted on; None without -h.

    Example:
        >>> requested(["-h", "steps"]), requested(["--help"]), requested(["steps=1"])
        (['steps'], [], None)
    """
    if not any(argument in FLAGS for argument in arguments):
        return None
    return [argument for argument in arguments if not argument.startswith("-")]


def text(names: Sequence[str]) -> str:
    """What the names stand for, or all groups and settings."""
    if not names:
        return "\n".join([USAGE, "", *_groups(), "", *_settings(run_level())])
    return "\n\n".join(_about(name) for name in names)


def run_level() -> list[Setting]:
    """The run-level settings, as conf/train.yaml lists them."""
    return list(_lines(paths.conf() / "train.yaml"))


def _lines(path: Path, *, nested: bool = False) -> Iterator[Setting]:
    # Of the top level, or of any.
    for line in path.read_text().splitlines():
        match = SETTING.match(line.strip() if nested else line)
        if match and match["name"] not in ("defaults", "hydra", "_target_"):
            yield Setting(name=match["name"], value=match["value"], comment=match["comment"] or "")


def _groups() -> list[str]:
    out = ["groups:"]
    for group in groups():
        head = f"  {group:22} "
        names = wrap(", ".join(choices(group)), WIDTH - len(head))
        out += [head + names[0], *(" " * len(head) + line for line in names[1:])]
    return out


def _settings(settings: Sequence[Setting]) -> list[str]:
    width = max(len(setting.name) for setting in settings)
    return ["settings (??? is the recipe's, by dataset):", *(setting.line(width) for setting in settings)]


def groups() -> list[str]:
    """The groups that a cell chooses from."""
    hidden = ("hydra", "recipe")
    folders = [folder.name for folder in paths.conf().iterdir() if folder.is_dir()]
    return [*sorted(name for name in folders if name not in hidden), "sweep"]


def choices(group: str) -> list[str]:
    """The choices of a group."""
    return sorted(path.stem for path in folder_of(group).glob("*.yaml"))


def folder_of(group: str) -> Path:
    """Where a group's files are."""
    return paths.sweeps() / "sweep" if group == "sweep" else paths.conf() / group


def file_of(group: str, choice: str) -> Path:
    """The file of a choice."""
    return folder_of(group) / f"{choice}.yaml"


def _about(name: str) -> str:
    group, equals, choice = name.partition("=")
    if equals and file_of(group, choice).exists():
        return file_of(group, choice).read_text().rstrip()
    name = group
    if name in groups():
        rows = (f"  {choice:24} {_first_comment(name, choice)}" for choice in choices(name))
        return "\n".join([f"{name}=", *rows])
    for setting in run_level():
        if setting.name == name:
            return "\n".join([setting.line(len(name)), *_by_recipe(name)])
    group, dot, key = name.partition(".")
    values = _in_choices(group, key) if dot and group in groups() else []
    return "\n".join([f"{name}:", *values]) if values else no_such(name)


def _first_comment(group: str, choice: str) -> str:
    first = file_of(group, choice).read_text().splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _by_recipe(name: str) -> list[str]:
    recipes = sorted((paths.conf() / "recipe").rglob("*.yaml"))
    return [
        f"    {setting.value} in recipe {path.stem}" + (f": {setting.comment}" if setting.comment else "")
        for path in recipes
        for setting in _lines(path)
        if setting.name == name
    ]


def _in_choices(group: str, key: str) -> list[str]:
    last = key.split(".")[-1]
    return [
        replace(setting, name=f"{group}={choice}").line(34)
        for choice in choices(group)
        if f"{group}.{key}" in _keys(group, choice)
        for setting in _lines(file_of(group, choice), nested=True)
        if setting.name == last
    ]


def no_such(name: str, node: Mapping[str, object] | None = None) -> str:
    """A line on a setting that is not there, with the nearest that are, or the choices that have it.

    Args:
        name: of the setting, dotted.
        node: what was chosen in its group, where that is known.

    Example:
        >>> no_such("stesp")
        "there is no setting 'stesp'; did you mean steps? python train.py -h lists them"
    """
    names = known(name)
    if name in groups():
        return f"{name}: the group is chosen for a place; give {name}@PLACE=CHOICE, PLACE being a setting"
    if name in names:
        return _of_other_choices(name, node)
    close = get_close_matches(name, names, n=3, cutoff=0.7)
    meant = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"there is no setting {name!r}{meant} python train.py -h lists them"


def _of_other_choices(name: str, node: Mapping[str, object] | None) -> str:
    # It is a setting of its group's, and not of what was chosen there.
    group = name.split(".")[0]
    owners = [choice for choice in choices(group) if name in _keys(group, choice)]
    more = f" and {len(owners) - 4} more" if len(owners) > 4 else ""
    named = f"{group}={', '.join(owners[:4])}{more}"
    target = None if node is None else node.get("_target_")
    if node is not None and target is None:
        return f"{name}: no {group} is chosen; it is a setting of {named}"
    built = [choice for choice in choices(group) if target and _file(group, choice).get("_target_") == target]
    chosen = f"{group}={built[0]}" if len(built) == 1 else f"the {group} that is chosen"
    return f"{name}: {chosen} has no such setting; it is one of {named}"


def no_such_choice(group: str, choice: str, options: Sequence[str]) -> str:
    """A line on a choice that is not there, with the nearest and all that are.

    Example:
        >>> no_such_choice("optim", "adam", ["adamw", "muon"])
        'optim=adam: there is no such choice; did you mean adamw? The choices are adamw, muon'
    """
    close = get_close_matches(choice, options, n=3)
    meant = f"; did you mean {' or '.join(close)}? The" if close else "; the"
    return f"{group}={choice}: there is no such choice{meant} choices are {', '.join(options)}"


def known(name: str) -> list[str]:
    """The names that a name may be meant for: run-level ones and groups, or those below a group."""
    group, dot, _ = name.partition(".")
    if not dot:
        return list(dict.fromkeys([*groups(), *(field.name for field in fields(TrainConfig))]))
    near = get_close_matches(group, groups(), n=1)
    return sorted({key for found in near for choice in choices(found) for key in _keys(found, choice)})


def _keys(group: str, choice: str) -> list[str]:
    def below(node: JsonObject, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            if not key.startswith("_") and key != "defaults":
                yield f"{prefix}{key}"
                yield from below(value, f"{prefix}{key}.") if isinstance(value, dict) else ()

    return list(below(_file(group, choice), f"{group}."))


def _file(group: str, choice: str) -> JsonObject:
    return yaml.safe_load(file_of(group, choice).read_text()) or {}
