"""The cell of a config that Hydra composed, from inside a Hydra process."""

from collections.abc import Mapping
from functools import cache

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from mirrorpo.config.cell import AXES, Cell, cell
from mirrorpo.config.schema import check, resolved
from mirrorpo.config.values import JsonObject


def cell_of(cfg: DictConfig, choices: Mapping[str, str] | None = None) -> Cell:
    """Check a composed config and name its cell.

    Raises:
        ValueError: naming the knob, its value and the fix.
    """
    check(cfg)
    names = dict(HydraConfig.get().runtime.choices) if choices is None else choices
    axes = tuple(sorted((axis, names[axis]) for axis in AXES))
    return cell(cfg, dict(axes), baseline(axes))


@cache
def baseline(axes: tuple[tuple[str, str], ...]) -> JsonObject:
    """What the choices on the axes compose to with no other setting."""
    overrides = [f"{axis}={name}" for axis, name in axes]
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("train", overrides, run_mode=RunMode.RUN)
    with open_dict(cfg):
        # Hydra's own settings are no part of a cell.
        del cfg["hydra"]
    try:
        return resolved(cfg)
    except ValueError:
        # No recipe for this pair: every setting is the command line's own.
        return {}
