"""What a sweep says of itself, as a launch records it with digests: `plan`, `selection`. Imports no torch.

Both are of the launch and of no cell: neither a hash nor a folder depends on them.
"""

import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirrorpo.config.identity import digest
from mirrorpo.config.schema import PLAN, SELECTION
from mirrorpo.config.values import JsonObject
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.recipe import sweep_file
from mirrorpo.launch.selection import read_selection
from mirrorpo.run.disk import file_digest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What a launch says that its sweep planned.

    Attributes:
        plan: the node, with what the command line changed in it; None where there is none.
        plan_sha256: of the node, however its file lays it out.
        sweep: the name of the sweep's file; None where the command names none.
        sweep_sha256: of the file.
        selection: how its settings were chosen; None where no selection chose them.
    """

    plan: object = None
    plan_sha256: str | None = None
    sweep: str | None = None
    sweep_sha256: str | None = None
    selection: JsonObject | None = None

    def entries(self) -> dict[str, object]:
        """What stands in `launches.json`, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NOTHING = Registration()


def registration(config: DictConfig) -> Registration:
    """What is to be recorded of a sweep's config, composed with its `hydra` node.

    Raises:
        LaunchError: if the plan cannot be read, or the selection is not as it was written.
    """
    plan, selection = _as_recorded(_node(config, PLAN)), _node(config, SELECTION)
    sweep = config.hydra.runtime.choices.get("sweep")
    file = sweep_file(config)
    return Registration(
        plan=plan or None,
        plan_sha256=digest({PLAN: plan}) if plan else None,
        sweep=None if sweep is None else str(sweep),
        sweep_sha256=None if file is None else file_digest(file),
        selection=_as_recorded(read_selection(selection)) if selection else None,
    )


def _as_recorded(node: T) -> T:
    """A node as JSON gives it back, whose keys are texts: a relaunch then plans the same."""
    return json.loads(json.dumps(node, default=str))


def _node(config: DictConfig, name: str) -> object:
    node = config.get(name)
    try:
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise LaunchError(f"{name}: {error}".splitlines()[0]) from error
