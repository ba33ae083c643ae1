"""What a SLURM job of a cell gets, and how sbatch is told."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.launch.errors import LaunchError

# SLURM's words for too many jobs, of an array or of a user's; fewer may be taken.
LIMITS = re.compile(r"\bQOS[A-Z]\w+|\bAssoc[A-Z]\w+|violates accounting|job array|MaxJobCount")

# SLURM's words for other refusals, and the settings that they are about.
SETTINGS = {
    r"partition": ("partition",),
    r"\bqos\b": ("qos",),
    r"account": ("account",),
    r"time limit": ("timeout_min",),
    r"feature": ("constraint",),
    r"node (count|configuration|name|list)|memory|cpu|gres|tres|generic resource": (
        *("nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb", "constraint", "exclude"),
    ),
    r"option|argument": ("lines",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSettings:
    """The settings of `hydra/launcher=slurm` that are a job's.

    Attributes:
        timeout_min: a job's time limit; a run that needs longer takes several turns.
        signal_delay_s: seconds before the limit at which the run is asked to stop: more than its longest step
            takes.
        partition, qos, account, constraint, exclude: as sbatch has them; None: the cluster's own.
        nodes: of a job.
        tasks_per_node: processes that train a cell together, each on a GPU of its own.
        cpus_per_task, gpus_per_node, mem_gb: what a job gets; None: the cluster's own.
        array_parallelism: jobs of the sweep that may run at once.
        lines: further `#SBATCH` options, such as {mail-type: FAIL}; null for one without a value.
        setup: shell commands before the run, such as `module load cuda`.

    Raises:
        LaunchError: if a run could not be asked to stop in time, or a process would have no GPU of its own.
    """

    timeout_min: int
    signal_delay_s: int
    partition: str | None
    qos: str | None
    account: str | None
    constraint: str | None
    exclude: str | None
    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None
    gpus_per_node: int | None
    mem_gb: float | None
    array_parallelism: int
    lines: Mapping[str, object]
    setup: Sequence[str]

    def __post_init__(self) -> None:
        if not 0 < self.signal_delay_s < 60 * self.timeout_min:
            raise LaunchError(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s}, "
                f"hydra.launcher.timeout_min={self.timeout_min}: a run is asked to stop some seconds before "
                "its limit; give a delay between 0 and the limit"
            )
        if self.gpus_per_node is not None and self.gpus_per_node < self.tasks_per_node > 1:
            raise LaunchError(
                f"hydra.launcher.tasks_per_node={self.tasks_per_node}, "
                f"hydra.launcher.gpus_per_node={self.gpus_per_node}: each process of a cell has a GPU of its "
                f"own; set hydra.launcher.gpus_per_node={self.tasks_per_node}"
            )

    @property
    def devices(self) -> int:
        """GPUs of a job."""
        return (self.gpus_per_node or 0) * self.nodes

    def parameters(self) -> dict[str, object]:
        """Submitit's parameters, without those that are the cluster's own."""
        parameters = {
            "time": self.timeout_min,
            "signal_delay_s": self.signal_delay_s,
            "partition": self.partition,
            "qos": self.qos,
            "account": self.account,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node,
            "mem": None if self.mem_gb is None else f"{math.ceil(1024 * self.mem_gb)}MB",
            "array_parallelism": self.array_parallelism,
            # The processes of a cell live and die together.
            "srun_args": ["--kill-on-bad-exit=1"] if self.nodes * self.tasks_per_node > 1 else None,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def further_lines(self) -> dict[str, object]:
        """Further options of sbatch."""
        # A node that fails must not cost the cell, whatever the cluster's default is.
        return {"requeue": True} | {
            name: True if value is None else value for name, value in self.lines.items()
        }

    def cure(self, reason: str) -> str:
        """A refusal in SLURM's words, with the settings that it is about."""
        if is_limit(reason):
            return (
                f"sbatch: {reason}: launch again when some jobs have ended, or change "
                f"hydra.launcher.qos={self.qos}, hydra.launcher.account={self.account}"
            )
        about = next((names for words, names in SETTINGS.items() if re.search(words, reason, re.I)), ())
        settings = ", ".join(f"hydra.launcher.{name}={getattr(self, name)}" for name in about)
        return f"sbatch: {reason}: change {settings or 'a setting of hydra.launcher'}"


def is_limit(reason: str) -> bool:
    """Whether SLURM refuses so many jobs, rather than such jobs.

    >>> is_limit("QOSMaxSubmitJobPerUserLimit"), is_limit("Invalid qos specification")
    (True, False)
    """
    return LIMITS.search(reason) is not None
