"""`train.yaml` with choices of groups and no other setting, from inside a Hydra process. Imports no torch."""

from collections.abc import Iterable, Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict


def of_choices(
    choices: Iterable[tuple[str, str]], searchpath: Sequence[str] = ()
) -> tuple[DictConfig, dict[str, str]]:
    """What choices compose to, without the `hydra` node, and the choice in every group.

    Args:
        choices: pairs of a group and a name in it.
        searchpath: `hydra.searchpath`.

    Raises:
        hydra.errors.MissingConfigException: where a choice, or `train.yaml` itself, is not there.
    """
    overrides = [f"{group}={name}" for group, name in choices]
    if searchpath:
        overrides.append("hydra.searchpath=[" + ",".join(f"'{folder}'" for folder in searchpath) + "]")
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("train", overrides, run_mode=RunMode.RUN)
    chosen = {group: str(name) for group, name in cfg.hydra.runtime.choices.items()}
    with open_dict(cfg):
        # Hydra's own settings are no part of a cell.
        del cfg["hydra"]
    return cfg, chosen
