"""A run's folder: manifest, states, lock, and metric files that survive any kill.

Imports no torch.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import differences
from mirrorpo.config.values import JsonObject
from mirrorpo.run import lock
from mirrorpo.run.completions import Completions
from mirrorpo.run.disk import aside, file_digest, reserve, write_atomic, writing_to
from mirrorpo.run.errors import RunError, unwritable
from mirrorpo.run.json_lines import JsonLines
from mirrorpo.run.manifest import MANIFEST, RunState, read_manifest, recovered, sealed, unsealed

log = logging.getLogger(__name__)

# Evaluations: of the run's own questions, and of other sets.
ROWS, ROWS_OF_SETS = "eval/step_*.jsonl", "eval/*/step_*.jsonl"
# Evaluations that were made after the run, of its checkpoints; no part of its results.
EVALUATED = "evaluated"
# What reports read beside a run's results; a run whose own are gone is done all the same.
BESIDE = ("timings.jsonl", "credit.jsonl", "credit/*.jsonl")
# Runs of version 0.1.0 have a file of shown completions, and one of their weights, for each step.
STEP_FILES = ("completions/step_*.md", "credit/step_*.jsonl")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """State, identity and provenance."""
        return self.path / MANIFEST

    @property
    def metrics(self) -> JsonLines:
        """Deterministic numbers, one row a step."""
        return JsonLines(self.path / "metrics.jsonl")

    @property
    def timings(self) -> JsonLines:
        """Seconds, tokens a second, memory: what differs between two runs that are the same."""
        return JsonLines(self.path / "timings.jsonl")

    @property
    def completions(self) -> Completions:
        """Some completions of each step, for a person."""
        return Completions(self.path / "completions.md")

    @property
    def credit(self) -> JsonLines:
        """The same completions with the weights of their tokens."""
        return JsonLines(self.path / "credit.jsonl")

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, a folder each."""
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        """The trained policy as a Hugging Face folder."""
        return self.path / "policy"

    def evaluation(self, step: int, eval_set: str = "") -> Path:
        """The evaluation after a step, one row a question; of the run's own set, or of another one."""
        return self.path / "eval" / eval_set / f"step_{step:06d}.jsonl"

    def evaluations(self) -> list[Path]:
        """All of them, those of other sets behind the run's own."""
        return [*sorted(self.path.glob(ROWS)), *sorted(self.path.glob(ROWS_OF_SETS))]

    def manifest(self) -> JsonObject:
        """What the manifest says; empty before the first launch.

        One that is damaged or gone is made again from the newest checkpoint or the config.

        Raises:
            RunError: if it is damaged and nothing is left to make it from.
        """
        manifest, fault = {}, None
        try:
            if manifest := read_manifest(self.manifest_path):
                return unsealed(manifest)
        except RunError as error:
            fault = error
        source = recovered(self.path)
        if source is None:
            if fault is not None:
                raise RunError(
                    f"{fault}, and neither a checkpoint nor config.yaml is left to make it from: move the "
                    f"folder away and launch again"
                )
            return manifest
        _warn_once(f"{fault or f'{self.manifest_path} is gone'}; going on from what {source[1]} says")
        return source[0]

    def update_manifest(self, **changes: object) -> None:
        """Change some of the manifest's entries, atomically; a damaged one is kept under another name.

        Raises:
            DiskError: if there is no room for it, or the like.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        manifest = self.manifest()
        try:
            read_manifest(self.manifest_path)
        except RunError:
            self.manifest_path.rename(aside(self.manifest_path, "damaged"))
        write_atomic(self.manifest_path, json.dumps(sealed({**manifest, **changes}), indent=2) + "\n")

    def plan(self, cell: Cell) -> None:
        """Enter a cell that nobody has launched yet."""
        if self.manifest().get("state", RunState.PLANNED) == RunState.PLANNED:
            self.update_manifest(
                state=RunState.PLANNED,
                config_hash=cell.hash,
                choices=dict(cell.choices),
                settings=dict(cell.settings),
                config=cell.config,
                error=None,
            )

    def refuse_other_config(self, cell: Cell) -> None:
        """Check that the folder holds this config's run.

        Raises:
            RunError: listing the keys that differ.
        """
        manifest = self.manifest()
        if (
            not manifest
            or manifest.get("state") == RunState.PLANNED
            or manifest.get("config_hash") == cell.hash
        ):
            return
        changed = differences(manifest.get("config", {}), cell.config)
        listed = (
            "; ".join(f"{key}: was {old!r}, is {new!r}" for key, (old, new) in changed.items())
            or "no setting, but the hash (edited by hand?)"
        )
        raise RunError(
            f"{self.path} holds a run with another config ({listed}). Undo the change, or run under another "
            f"name= or out=, or move the "
            f"folder away"
        )

    def refuse_other_circumstances(self, circumstances: Mapping[str, object]) -> None:
        """Check that what a run depends on beside its config is what it started with.

        Raises:
            RunError: naming what changed, with both values.
        """
        manifest = self.manifest()
        changed = [
            f"{name}: was {manifest[name]!r}, is {value!r}"
            for name, value in circumstances.items()
            if name in manifest and manifest[name] != value
        ]
        if changed:
            raise RunError(
                f"{self.path} was begun under other circumstances ({'; '.join(changed)}). Restore them, or "
                "run under another name= or out="
            )

    def results(self) -> list[Path]:
        """The files that make a run's results."""
        kept = [
            self.metrics.path,
            *self.policy.glob("*"),
            *self.checkpoints.glob("step_*/*"),
            *self.path.glob("eval/*"),
            *self.path.glob(ROWS_OF_SETS),
        ]
        return [path for path in kept if path.is_file()]

    def sizes(self) -> dict[str, int]:
        """The files that make a run's results, with their sizes in bytes."""
        return {str(path.relative_to(self.path)): path.stat().st_size for path in self.results()}

    def digests(self) -> dict[str, str]:
        """sha256 of the results; checkpoints have their own."""
        return {
            str(path.relative_to(self.path)): file_digest(path)
            for path in self.results()
            if self.checkpoints not in path.parents
        }

    def digests_beside(self) -> dict[str, str]:
        """sha256 of what reports read beside the results."""
        paths = (path for pattern in BESIDE for path in sorted(self.path.glob(pattern)))
        return {str(path.relative_to(self.path)): file_digest(path) for path in paths}

    def cut_shown(self, step: int, *, keep: bool = False) -> list[int]:
        """Drop the shown completions of later steps; the numbers of the damaged lines of their weights.

        Args:
            step: the last one that stays.
            keep: keep the weights as they are under another name.
        """
        self.completions.cut_after(step)
        for path in (path for pattern in STEP_FILES for path in self.path.glob(pattern)):
            if step_of(path) > step:
                path.unlink()
        return self.credit.cut_after(step, keep=keep)

    def finished(self, *, verify: bool = False, manifest: JsonObject | None = None) -> bool:
        """Done or stale, and nothing that this promised has been taken away since.

        Args:
            verify: also read the files that were written to since, and say which is another one now.
            manifest: of the run; None reads it.
        """
        manifest = self.manifest() if manifest is None else manifest
        files = manifest.get("files")
        if manifest.get("state") not in (RunState.DONE, RunState.STALE) or files is None:
            return False
        if not any(self.checkpoints.glob("step_*")):
            # A run that is done needs none; removing them all to save disk is no damage, and must not cost
            # the run.
            files = {name: size for name, size in files.items() if not name.startswith("checkpoints/")}
        whole = all(_size(f"{self.path}/{name}") == size for name, size in files.items())
        return whole and not (verify and self._changed(manifest.get("sha256") or {}))

    def _changed(self, digests: Mapping[str, str]) -> bool:
        written = self.manifest_path.stat().st_mtime_ns
        for name, digest in digests.items():
            path = self.path / name
            if path.stat().st_mtime_ns > written and file_digest(path) != digest:
                log.warning("%s is not what it was when the run ended; making it again", path)
                return True
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process, however it ends.

        Raises:
            RunError: if another process runs in this folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(unwritable(self.path, error)) from error
        try:
            self._take(handle)
        except RunError:
            os.close(handle)
            raise
        try:
            with reserve(self.path):
                yield
        finally:
            lock.drop(handle)

    def _take(self, handle: int) -> None:
        try:
            with writing_to(self.path):
                lock.take(handle, self.path / ".lock")
        except lock.Held as error:
            raise RunError(f"{self.path} is being run by another process: wait for it, or stop it") from error
        except OSError as error:
            raise RunError(
                f"out: cannot lock {self.path} ({error}); set out= to another file system"
            ) from error

    def held(self) -> bool:
        """Whether a process runs in this folder, as far as this machine can see."""
        return lock.is_held(self.path / ".lock")


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def step_of(path: Path) -> int:
    """The step that a file's or checkpoint's name has; -1 where it has none.

    Example:
        >>> step_of(Path("eval/step_000012.jsonl")), step_of(Path("eval/contamination.jsonl"))
        (12, -1)
    """
    number = path.stem.removeprefix("step_")
    return int(number) if number.isdigit() else -1


def seconds(timing: JsonObject) -> float:
    """What the step of a row of `timings.jsonl` took."""
    spent = (timing.get("seconds"), timing.get("eval_s"))
    return sum(float(value) for value in spent if isinstance(value, int | float))


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def run_folders(root: Path) -> list[Path]:
    """Every run's folder below `root`, by name; runs may be writing to them.

    Hidden folders are a sweep's own: the code that its jobs run may hold finished runs, as its tests do.
    """
    runs, roots, walked = [], [str(root)], set[str]()
    while roots:
        # Links last: what lies below `root` itself is not listed under a second name.
        real = os.path.realpath(top := roots.pop(0))
        if real in walked:
            continue
        # Unlike `rglob`, it passes over a folder that is renamed meanwhile, as a checkpoint's is.
        for folder, below, files in os.walk(top):
            # A walk follows no links, so the rest of the name is real.
            walked.add(os.path.normpath(real + folder[len(top) :]))
            if MANIFEST in files:
                runs.append(Path(folder))
                below.clear()
            below[:] = [name for name in below if not name.startswith(".")]
            # A cell, or a sweep, may be a link to another disk.
            links = [os.path.join(folder, name) for name in below]
            roots += [link for link in sorted(links) if os.path.islink(link)]
    return sorted(runs)


def timestamp() -> str:
    """The time, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
