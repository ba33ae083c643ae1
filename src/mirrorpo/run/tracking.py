"""Mirrors of the local metric file; they may fail, the run goes on."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirrorpo.config.values import Config
from mirrorpo.core.protocols import Tracker
from mirrorpo.run import wandb_login as login
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.mirror import Behind

if TYPE_CHECKING:
    from wandb import Run

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
    """One W&B run; its calls raise and may hang, which is for `Mirror` to bear."""

    settings: WandB
    run: "Run | None" = None
    folder: Path = field(default=Path())

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None:
        """Open the run under the id that the config gives it; a resumed run continues it.

        Raises:
            Behind: if the server does not let it in; its rows then lie in the run's folder.
        """
        self.folder = Path(folder)
        mode = self._mode()
        if mode == "disabled":
            return
        # Flushing every second keeps the offline file of a killed run; the default loses its last 15 s.
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        def begin(mode: Literal["online", "offline"]) -> "Run":
            return wandb.init(
                project=self.settings.project,
                entity=self.settings.entity,
                id=run_id,
                name=name,
                config=dict(config),
                dir=folder,
                resume="allow",
                mode=mode,
                settings=wandb.Settings(init_timeout=self.settings.init_timeout_s, api_key=login.key()),
            )

        refused = None
        try:
            self.run = begin(mode)
        except wandb.Error as error:
            if mode == "offline":
                raise
            refused = error
            # The service holds on to the id of a run that it could not begin.
            wandb.teardown()
            self.run = begin("offline")
        _keep(self.run, self.folder, PROVENANCE)
        if refused is not None:
            reason = str(refused).splitlines()[0]
            raise Behind(f"the server let nothing in ({type(refused).__name__}: {reason})")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror one step; steps that the server has already are dropped by it, and are the same."""
        if self.run is not None:
            self.run.log(dict(metrics), step=step, commit=True)

    def finish(self, exit_code: int) -> None:
        """Close the run; after EX_TEMPFAIL, the status of one that will go on, W&B shows it as preempted."""
        if self.run is not None:
            if exit_code == os.EX_TEMPFAIL:
                self.run.mark_preempting()
            answers = [str(path.relative_to(self.folder)) for path in RunFolder(self.folder).evaluations()]
            _keep(self.run, self.folder, PROVENANCE | {name: name for name in answers})
            self.run.finish(exit_code=exit_code)

    def catch_up(self) -> str:
        """The command that sends what the server lacks."""
        here = Path(self.run.dir).parent if self.run is not None else self.folder / "wandb" / "*run-*"
        return f"`wandb sync --include-online {here}`"

    def _mode(self) -> Literal["online", "offline", "disabled"]:
        if self.settings.mode != "auto":
            return self.settings.mode
        # wandb's older names are those that other trainers still read.
        if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
            return "disabled"
        mode = os.environ.get("WANDB_MODE", "").lower()
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
        if mode == "offline" or mode == "online" or mode == "disabled":
            return mode
        return "online" if login.known() else "offline"


def _keep(run: "Run", folder: Path, files: Mapping[str, str]) -> None:
    # Copies: a link out of W&B's folder breaks when that folder is moved.
    for name, kept in files.items():
        if (folder / name).is_file():
            copy = Path(run.dir) / kept
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy)
            run.save(str(copy), base_path=run.dir, policy="now")
