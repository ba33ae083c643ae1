"""A cell of the grid: its config, its name and the folder that is its own. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mirrorpo.config.identity import config_hash, differences, digest
from mirrorpo.config.renamed import first_named
from mirrorpo.config.schema import resolved
from mirrorpo.config.values import Config

AXES = ("algo", "divergence", "weighting", "model", "dataset")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run: a point of the grid with its seed, and the folder that is its own.

    Attributes:
        config: resolved settings.
        choices: the name chosen on each axis.
        settings: what differs from the named choices' own settings, the seed apart.
        notes: what of its command line was read otherwise than Hydra does.
    """

    config: Config
    choices: Mapping[str, str]
    settings: Config
    notes: Sequence[str] = ()

    @property
    def label(self) -> str:
        """`algo=grpo,divergence=kl,...`, with a short hash when settings beyond the axes differ."""
        axes = ",".join(f"{axis}={self.choices[axis]}" for axis in AXES)
        return axes + (f",settings={digest(first_named(self.settings))[:8]}" if self.settings else "")

    @property
    def folder(self) -> Path:
        """`<out>/<name>/<label>/seed=<n>`: a function of the config and of nothing else."""
        return Path(self.config["out"]) / self.config["name"] / self.label / f"seed={self.config['seed']}"

    @property
    def hash(self) -> str:
        """The config's hash."""
        return config_hash(self.config)

    def run_id(self, attempt: str) -> str:
        """The W&B run's id: of the config, the sweep's name and the attempt.

        Two sweeps may hold the same cell, and a cell that starts anew must not go on with the numbers that a
        server has of an earlier attempt.
        """
        return digest({"config": self.hash, "name": self.config["name"], "attempt": attempt})[:16]


def cell(cfg: DictConfig, choices: Mapping[str, str], baseline: Config) -> Cell:
    """The cell of a composed config; `baseline` is what its axes' choices alone compose to."""
    config = resolved(cfg)
    settings = {key: value for key, (value, _) in differences(config, baseline).items() if key != "seed"}
    return Cell(config=config, choices={axis: choices[axis] for axis in AXES}, settings=settings)
