"""The cell of a config that Hydra composed, from inside a Hydra process."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from mirrorpo.config.cell import AXES, Cell, cell
from mirrorpo.config.choices import of_choices
from mirrorpo.config.eval_sets import eval_sets
from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.schema import check, resolved
from mirrorpo.config.typed import apply_typed


def cell_of(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    *,
    overrides: Sequence[str] = (),
    searchpath: Sequence[str] = (),
) -> Cell:
    """Check a composed config and name its cell.

    Args:
        cfg: without its `hydra` node; changed in place where the command line meant more than Hydra's merge.
        choices: the name chosen in each group; None: those, and all else, of the run that Hydra has started.
        overrides: of the command line.
        searchpath: `hydra.searchpath`.

    Raises:
        ValueError: naming the knob, its value and the fix.
    """
    if choices is None:
        hydra = HydraConfig.get()
        choices = dict(hydra.runtime.choices)
        overrides, searchpath = list(hydra.overrides.task), list(hydra.searchpath)
    notes = apply_typed(cfg, overrides)
    check(cfg)
    axes = tuple(sorted((axis, choices[axis]) for axis in AXES))
    of_axes = baseline(axes, tuple(searchpath))
    sets = eval_sets(cfg, dict(axes), of_axes, overrides, searchpath)
    made = cell(cfg, dict(axes), of_axes)
    # A run without them keeps the config that it had before there were any.
    return replace(made, config={**made.config, **({EVAL_SETS: sets} if sets else {})}, notes=notes)


@cache
def baseline(axes: tuple[tuple[str, str], ...], searchpath: tuple[str, ...] = ()) -> dict[str, object]:
    """What the choices on the axes compose to with no other setting.

    Raises:
        ValueError: if the config folder holds no `train.yaml` to compose them with.
    """
    try:
        cfg, _ = of_choices(axes, searchpath)
    except MissingConfigException as error:
        if error.missing_cfg_file != "train":
            raise
        raise ValueError(
            "--config-path: the folder has no train.yaml, which says what a cell's settings differ from; "
            "put a copy of conf/train.yaml there, or use --config-dir, which adds a folder"
        ) from error
    try:
        return resolved(cfg)
    except ValueError:
        # No recipe for this pair: every setting is the command line's own.
        return {}
