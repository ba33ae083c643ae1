"""Arguments of a command line on their way to Hydra, and from a launcher to its cells. Imports no torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mirrorpo.config import paths
from mirrorpo.config.override_text import quoted

# Characters that mean something to Hydra in a value, or that it reads in quotes alone.
SPECIAL = re.compile(r"[^\w/.+$%*@?|-]", re.ASCII)

# What a user may type of `hydra.*` beside -m. These are for the launcher and the sweeper themselves.
OF_THE_LAUNCHER = ("mode", "launcher", "sweeper")
# Every cell gets these, as typed.
PASSED_ON = (
    "searchpath",
    "callbacks",
    "verbose",
    "env",
    "help",
    "hydra_help",
    "job_logging",
    "hydra_logging",
    "job.name",
    "job.chdir",
    "job.config",
    "job.env_set",
    "job.env_copy",
)
# These are refused, with the reason.
REFUSED: Mapping[str, str] = {
    "run": "a cell's folder follows from its config: set out= and name=",
    "sweep": "a cell's folder follows from its config, and a sweep's is <out>/<name>: set out= and name=",
    "output": "a cell's folder follows from its config: set out= and name=",
    "output_subdir": "config.yaml in each cell's folder has all of its settings",
    "job": "Hydra fills it in for each cell",
    "runtime": "Hydra fills it in for each cell",
    "overrides": "Hydra fills it in for each cell",
}


def quoted_paths(arguments: Sequence[str]) -> list[str]:
    """A command line in which the names of existing files and folders are quoted where Hydra needs it.

    A run's folder has `=` and `,` in its name. A value that is an existing path as it stands is that path;
    else a list of existing paths is a sweep over them.

    Example:
        >>> quoted_paths(["seed=0,1", "divergence=kl"])
        ['seed=0,1', 'divergence=kl']
    """
    return [_quoted_path(argument) for argument in arguments]


def _quoted_path(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-") or not SPECIAL.search(value):
        return argument
    names = _existing(value.split(","))
    if not any(SPECIAL.search(name) for name in names):
        return argument
    return f"{key}=" + ",".join(quoted(name) if SPECIAL.search(name) else name for name in names)


def _existing(parts: Sequence[str]) -> list[str]:
    """The parts joined by commas to existing paths, the longest first; empty if some belong to none."""
    if not parts:
        return []
    for count in range(len(parts), 0, -1):
        name = ",".join(parts[:count])
        if not _exists(name):
            continue
        rest = _existing(parts[count:])
        if rest or count == len(parts):
            return [name, *rest]
    return []


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):
        # Too long for a path, or no path at all.
        return False


def hydra_key(override: str) -> str:
    """The dotted key below `hydra` that an override is about.

    Example:
        >>> hydra_key("+hydra.job.env_set.A=1"), hydra_key("hydra/launcher=slurm")
        ('job.env_set.A', 'launcher')
    """
    key = override.lstrip("+~").partition("=")[0].split("@")[0]
    return key.replace("/", ".").removeprefix("hydra.")


def for_each_cell(config: DictConfig) -> list[str]:
    """What the command line says to Hydra and not to the launcher: each cell is to get it.

    Args:
        config: of the multirun, with its `hydra` node.

    Raises:
        ValueError: naming an override that no cell could follow.
    """
    if "out" not in config:
        # Another program's config, which has no cells: for the launcher to refuse.
        return []
    typed = [str(override) for override in config.hydra.overrides.hydra]
    passed_on: list[str] = []
    for override in typed:
        key = hydra_key(override)
        if _below(key, PASSED_ON):
            passed_on.append(override)
        elif not _below(key, OF_THE_LAUNCHER):
            reason = REFUSED.get(key.split(".")[0], "no cell of a grid could follow it")
            raise ValueError(f"{override} with -m: {reason}")
    _refuse_elsewhere(config)
    return passed_on


def _refuse_elsewhere(config: DictConfig) -> None:
    # A config file may say it too.
    if config.hydra.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true with -m: relative paths, out= among them, would mean something else in a "
            "cell than here; leave it out"
        )
    if Path(config.hydra.sweep.dir) != Path(config.out) / config.name:
        raise ValueError(f"hydra.sweep.dir={config.hydra.sweep.dir} with -m: {REFUSED['sweep']}")


def _below(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def config_options(config: DictConfig) -> list[str]:
    """The options that make another process read the same config files: -cp, --config-dir, -cn."""
    out: list[str] = []
    for source in config.hydra.runtime.config_sources:
        if source.provider == "main" and Path(source.path) != paths.conf():
            out += ["--config-path", source.path]
        if source.provider == "command-line":
            out += ["--config-dir", source.path]
    name = config.hydra.job.config_name
    return out if name == "train" else [*out, "--config-name", name]


def environment_of(config: DictConfig) -> dict[str, str]:
    """What `hydra.job.env_set` sets in every cell, and so has to stand while a cell is composed here."""
    settings = OmegaConf.to_container(config.hydra.job.env_set, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): str(value) for name, value in settings.items()}
