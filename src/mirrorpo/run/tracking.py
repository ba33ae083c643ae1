"""Mirrors of the local metric file; they may fail, the run goes on."""

import configparser
import logging
import netrc
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mirrorpo.config.values import Config
from mirrorpo.core.protocols import Tracker

log = logging.getLogger(__name__)

# Where a login is kept, in the home folder.
NETRC = (".netrc", "_netrc")

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
        limit_s: how long the run waits for any call, the start and the end among them.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    init_timeout_s: float
    limit_s: float = 30.0

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
        self.folder = Path(folder)
        mode = self._mode()
        if mode == "disabled":
            return
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
                mode=mode,
                settings=wandb.Settings(init_timeout=self.settings.init_timeout_s),
            )
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

    def catch_up(self) -> str:
        """The command that sends what the server lacks."""
        return f"`wandb sync {self.folder / 'wandb'}/run-*`"

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
        mode = os.environ.get("WANDB_MODE", "").lower()
        if mode == "offline" or mode == "online" or mode == "disabled":
            return mode
        if mode == "dryrun" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
            # wandb's older names.
            return "offline" if mode == "dryrun" else "disabled"
        return "online" if os.environ.get("WANDB_API_KEY") or _login() else "offline"

    def _gone(self, error: Exception) -> None:
        # A dead network or a full disk on W&B's side must not cost a run; the local files have everything.
        log.warning(
            "W&B mirror stopped (%s: %s); the run goes on, metrics.jsonl has every number",
            type(error).__name__,
            error,
        )
        self.run = None


def _login() -> bool:
    """Whether a netrc file has an entry for the server that wandb would use."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or _stored_url() or "https://api.wandb.ai").hostname
    paths = [Path(named)] if (named := os.environ.get("NETRC")) else [Path.home() / name for name in NETRC]
    for path in paths:
        try:
            hosts = netrc.netrc(path.expanduser()).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if any(host.lower() == server for host in hosts):
            return True
    return False


def _stored_url() -> str | None:
    # `wandb login --host URL` writes it.
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings")
        return settings.get("default", "base_url", fallback=None)
    except configparser.Error:
        return None
