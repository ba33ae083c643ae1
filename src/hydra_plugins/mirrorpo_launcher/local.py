"""Cells of a multirun on this machine, each in a process of its own, one after the other."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.console import Console

from mirrorpo.compose import cell_of
from mirrorpo.config import Cell
from mirrorpo.runs import RunError, RunFolder


@dataclass(frozen=True, slots=True)
class Job:
    """One cell of the grid, or the reason why it is none.

    Attributes:
        overrides: its command line.
        cell: what it composes to; None when it does not.
        error: why it cannot run.
    """

    overrides: Sequence[str]
    cell: Cell | None
    error: str | None


class LocalLauncher(Launcher):
    """Composes and checks the whole grid, then runs what is left of it.

    A cell that fails does not stop the others. At the end every failure is printed with its
    reason, and the exit status says that there was one.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self._context, self._config = hydra_context, config
        self._console = Console(highlight=False, soft_wrap=True)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells.

        Raises:
            SystemExit: with status 1, after all cells had their turn, if one failed.
        """
        self._say(f"{len(job_overrides)} cells")
        jobs = [_built(self._compose(overrides)) for overrides in job_overrides]
        failures: list[tuple[Job, str]] = []
        seen: set[Path] = set()
        jobs = [_planned(job) for job in jobs]
        for number, job in enumerate(jobs, start=1):
            folder = None if job.cell is None else job.cell.folder
            title = f"[{number}/{len(jobs)}] {folder or ' '.join(job.overrides)}"
            if job.error is not None:
                self._say(f"{title}: refused")
                failures.append((job, job.error))
            elif folder in seen:
                self._say(f"{title}: the same cell again, skipped")
            elif folder is not None and RunFolder(folder).finished():
                self._say(f"{title}: done already, nothing to do")
            elif folder is not None:
                seen.add(folder)
                self._say(title)
                reason = self._run(job, RunFolder(folder))
                failures += [(job, reason)] if reason else []
        if failures:
            self._say(f"\n{len(failures)} of {len(jobs)} cells failed:")
            for job, reason in failures:
                self._say(f"  {' '.join(job.overrides)}\n    {reason}")
            raise SystemExit(1)
        return [_returned(overrides) for overrides in job_overrides]

    def _compose(self, overrides: Sequence[str]) -> Job:
        try:
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            choices = dict(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            cell = cell_of(config, choices)
            RunFolder(cell.folder).refuse_other_config(cell)
            return Job(overrides, cell, None)
        except RunError as error:
            return Job(overrides, None, str(error))
        except Exception as error:
            # Whatever Hydra raises for a bad override is this cell's reason; the others still run.
            return Job(overrides, None, f"{type(error).__name__}: {error}".strip().replace("\n", " "))

    def _run(self, job: Job, folder: RunFolder) -> str | None:
        started = time.time()
        # hydra.mode: a sweep file that makes this a multirun must not make the cell one too.
        sources = self._config.hydra.runtime.config_sources
        folders = [word for source in sources if source.provider == "command-line" for word in ("--config-dir", source.path)]
        command = [sys.executable, sys.argv[0], *folders, *job.overrides, "hydra.mode=RUN"]
        said = ""
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                for line in process.stderr or ():
                    sys.stderr.write(line)
                    said = line.strip() if line.startswith("error: ") else said
                process.wait()
            except KeyboardInterrupt:
                # The terminal has interrupted the cell too; the same command goes on with it later.
                process.wait()
                raise SystemExit(130) from None
        if process.returncode == 0:
            return None
        manifest: dict[str, Any] = folder.manifest()
        written = manifest.get("error") if manifest.get("ended") and folder.manifest_path.stat().st_mtime >= started else None
        if written:
            return f"{written} (traceback: {folder.path / 'error.txt'})"
        how = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        return f"{said or how}; its folder is {folder.path}"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)
        sys.stdout.flush()


def _built(job: Job) -> Job:
    # What can be refused without loading a model is refused before the first cell starts.
    if job.cell is None or RunFolder(job.cell.folder).finished():
        return job
    from mirrorpo.parts import assemble

    try:
        assemble(job.cell.config)
    except ValueError as error:
        return replace(job, error=f"{type(error).__name__}: {error}")
    return job


def _planned(job: Job) -> Job:
    if job.cell is None or job.error is not None:
        return job
    try:
        RunFolder(job.cell.folder).plan(job.cell)
    except OSError as error:
        return replace(job, error=f"out: cannot write to {job.cell.folder} ({error}); set out= to a folder that can be written to")
    return job


def _returned(overrides: Sequence[str]) -> JobReturn:
    out = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    out.return_value = None
    return out
