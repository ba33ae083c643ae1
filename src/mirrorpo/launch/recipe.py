"""What a launch set out to do: what was typed, and what its sweep file says. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from mirrorpo.config.values import JsonObject
from mirrorpo.launch.along import written_in


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the cells of a launch came to be.

    Attributes:
        typed: overrides of the command line, those of Hydra itself left out.
        written: overrides that stand in the sweep's file and were not typed.
        claim: the comment that opens the sweep's file, a line each.
        along: settings by the choice that they come with.
    """

    typed: Sequence[str] = ()
    written: Sequence[str] = ()
    claim: Sequence[str] = ()
    along: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject])


UNKNOWN = Recipe()


def claims_no_other(earlier: Recipe, later: Recipe) -> bool:
    """Whether no claim is lost where a later command stands for an earlier one."""
    return not earlier.claim or list(earlier.claim) == list(later.claim)


def recipe_of(config: DictConfig) -> Recipe:
    """The recipe of a composed multirun, with its `hydra` node."""
    hydra = config.hydra
    typed = [str(override) for override in hydra.overrides.task]
    file = sweep_file(config)
    written = written_in(hydra.sweeper, typed)
    along = OmegaConf.to_container(hydra.sweeper.get("along") or OmegaConf.create())
    return Recipe(typed, written, () if file is None else claim(file), cast("dict[str, JsonObject]", along))


def sweep_file(config: DictConfig) -> Path | None:
    """The file that the choice of a sweep named, of a config with its `hydra` node; None without one."""
    runtime = config.hydra.runtime
    name = (runtime.get("choices") or {}).get("sweep")
    if name is None:
        return None
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    return next((file for folder in folders if (file := folder / "sweep" / f"{name}.yaml").is_file()), None)


def claim(path: Path) -> list[str]:
    """The comment that opens a sweep file, its commands left out; what stands further below is none of it."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @")]
    block = takewhile(lambda line: line.startswith("#"), dropwhile(lambda line: not line.strip(), lines))
    return [
        line.removeprefix("#").strip()
        for line in block
        if line.startswith("# ") and not line.startswith("#   ")
    ]
