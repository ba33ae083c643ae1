"""What a sweep planned, as a launch records it: the node `plan` of its file, with digests. Imports no torch.

It is of the launch and of no cell: neither a hash nor a folder depends on it.
"""

from dataclasses import asdict, dataclass

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirrorpo.config.identity import digest
from mirrorpo.config.schema import PLAN
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.recipe import sweep_file
from mirrorpo.run.disk import file_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What a launch says that its sweep planned.

    Attributes:
        plan: the node, with what the command line changed in it; None where there is none.
        plan_sha256: of the node, however its file lays it out.
        sweep: the name of the sweep's file; None where the command names none.
        sweep_sha256: of the file.
    """

    plan: object = None
    plan_sha256: str | None = None
    sweep: str | None = None
    sweep_sha256: str | None = None

    def entries(self) -> dict[str, object]:
        """What stands in `launches.json`, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NOTHING = Registration()


def registration(config: DictConfig) -> Registration:
    """What is to be recorded of a sweep's config, composed with its `hydra` node.

    Raises:
        LaunchError: if the plan cannot be read.
    """
    node = config.get(PLAN)
    try:
        plan = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise LaunchError(f"plan: {error}".splitlines()[0]) from error
    sweep = config.hydra.runtime.choices.get("sweep")
    file = sweep_file(config)
    return Registration(
        plan=plan or None,
        plan_sha256=digest({PLAN: plan}) if plan else None,
        sweep=None if sweep is None else str(sweep),
        sweep_sha256=None if file is None else file_digest(file),
    )
