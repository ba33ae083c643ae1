"""Mirrors of the local metric file; they may fail, the run goes on."""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mirrorpo.config.values import Config
from mirrorpo.core.protocols import Tracker

log = logging.getLogger(__name__)

# Under another name: what looks for runs by their manifests must not take the copy for a run.
PROVENANCE = {"manifest.json": "provenance.json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTracker:
    """No mirror: the local files are all there is."""

    def build(self) -> Tracker:
        """A tracker that does nothing."""
        return Silent()


class Silent:
    """Takes everything and keeps nothing."""

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self, exit_code: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WandB:
    """Weights & Biases as a mirror.

    Attributes:
        project: where runs go.
        entity: user or team; None is the account's default.
        mode: auto is online with an API key and offline without; offline runs lie in the run's
            folder until `wandb sync`.
        init_timeout_s: how long a silent server may hold up the start.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    init_timeout_s: float

    def build(self) -> Tracker:
        """A tracker that has not started."""
        return WandBRun(self)


@dataclass(slots=True)
class WandBRun:
    """One W&B run; every call is guarded, the first failure is reported and ends the mirror."""

    settings: WandB
    run: Any = field(default=None)
    folder: Path = field(default=Path())

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None:
        """Open the run under the id that the config gives it; a resumed run continues it."""
        # Flushing every second keeps the offline file of a killed run; the default loses its last 15 s.
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb

            self.run = wandb.init(
                project=self.settings.project,
                entity=self.settings.entity,
                id=run_id,
                name=name,
                config=dict(config),
                dir=folder,
                resume="allow",
                mode=self._mode(),
                settings=wandb.Settings(init_timeout=self.settings.init_timeout_s),
            )
            self.folder = Path(folder)
            self._keep(PROVENANCE)
        except Exception as error:
            self._gone(error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror one step; steps that the server has already are dropped by it, and are the same."""
        if self.run is not None:
            try:
                self.run.log(dict(metrics), step=step, commit=True)
            except Exception as error:
                self._gone(error)

    def finish(self, exit_code: int) -> None:
        """Close the run; after EX_TEMPFAIL, the status of one that will go on, W&B shows it as preempted."""
        if self.run is not None:
            try:
                if exit_code == os.EX_TEMPFAIL:
                    self.run.mark_preempting()
                self._keep(
                    PROVENANCE
                    | {
                        f"eval/{path.name}": f"eval/{path.name}"
                        for path in self.folder.glob("eval/step_*.jsonl")
                    }
                )
                self.run.finish(exit_code=exit_code)
            except Exception as error:
                self._gone(error)

    def _keep(self, files: Mapping[str, str]) -> None:
        # Copies: a link out of W&B's folder breaks when that folder is moved.
        for name, kept in files.items():
            if (self.folder / name).is_file():
                copy = Path(self.run.dir) / kept
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, copy)
                self.run.save(str(copy), base_path=self.run.dir, policy="now")

    def _mode(self) -> Literal["online", "offline", "disabled"]:
        if self.settings.mode != "auto":
            return self.settings.mode
        mode = os.environ.get("WANDB_MODE", "")
        if mode == "offline" or mode == "online" or mode == "disabled":
            return mode
        netrc = Path("~/.netrc").expanduser()
        known = bool(os.environ.get("WANDB_API_KEY")) or (netrc.exists() and "wandb" in netrc.read_text())
        return "online" if known else "offline"

    def _gone(self, error: Exception) -> None:
        # A dead network or a full disk on W&B's side must not cost a run; the local files have everything.
        log.warning(
            "W&B mirror stopped (%s: %s); the run goes on, metrics.jsonl has every number",
            type(error).__name__,
            error,
        )
        self.run = None
