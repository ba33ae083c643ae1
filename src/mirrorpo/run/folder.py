"""A run's folder: manifest, states, lock, and metric files that survive any kill.

Imports no torch.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import differences
from mirrorpo.config.values import JsonObject


class RunState(StrEnum):
    """Where a run is in its life."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"
    STALE = "stale"


class RunError(ValueError):
    """A run folder that cannot be used as asked."""


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a machine that dies, sees the old or the new one whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class JsonLines:
    """An append-only file of one JSON object a line, cut back to a step when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[JsonObject]:
        """The complete rows; a last line that a kill left unfinished is not one."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise RunError(
                f"{self.path} has a line that is not JSON ({error}): move the run's folder away and launch "
                f"again"
            ) from error

    def cut_after(self, step: int) -> None:
        """Drop rows of later steps and any unfinished line."""
        kept = [row for row in self.rows() if row["step"] <= step]
        if kept or self.path.exists():
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Mapping[str, object]) -> None:
        """Add one row, on disk before a checkpoint of the same step can be."""
        with self.path.open("a") as file:
            file.write(json.dumps(dict(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """State, identity and provenance."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> JsonLines:
        """Deterministic numbers, one row a step."""
        return JsonLines(self.path / "metrics.jsonl")

    @property
    def timings(self) -> JsonLines:
        """Seconds, tokens a second, memory: what differs between two runs that are the same."""
        return JsonLines(self.path / "timings.jsonl")

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, a folder each."""
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        """The trained policy as a Hugging Face folder."""
        return self.path / "policy"

    def evaluation(self, step: int) -> Path:
        """The evaluation after a step, one row a question."""
        return self.path / "eval" / f"step_{step:06d}.jsonl"

    def manifest(self) -> JsonObject:
        """What the manifest says; empty before the first launch.

        Raises:
            RunError: if the file cannot be read.
        """
        if not self.manifest_path.exists():
            return {}
        try:
            return json.loads(self.manifest_path.read_text())
        except json.JSONDecodeError as error:
            raise RunError(
                f"{self.manifest_path} is not JSON ({error}): move the folder away and launch again"
            ) from error

    def update_manifest(self, **changes: object) -> None:
        """Change some of the manifest's entries, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(
            self.manifest_path, json.dumps({**self.manifest(), **changes}, indent=2, default=str) + "\n"
        )

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

    def recorded(self, step: int, evaluates: Callable[[int], bool]) -> bool:
        """Whether every row up to a step is there, and every evaluation of a step that `evaluates` says has
        one.

        One that is gone cannot be made from a later checkpoint.
        """
        steps = [row["step"] for row in self.metrics.rows() if row["step"] <= step]
        evaluated = [self.evaluation(done) for done in steps if evaluates(done)]
        return steps == list(range(0 if evaluates(0) else 1, step + 1)) and all(
            path.exists() for path in evaluated
        )

    def sizes(self) -> dict[str, int]:
        """The files that make a run's results, with their sizes in bytes."""
        kept = [
            self.metrics.path,
            *self.policy.iterdir(),
            *self.checkpoints.glob("step_*/*"),
            *self.path.glob("eval/*"),
        ]
        return {str(path.relative_to(self.path)): path.stat().st_size for path in kept if path.is_file()}

    def finished(self) -> bool:
        """Done or stale, and nothing that this promised has been taken away since."""
        manifest = self.manifest()
        if manifest.get("state") not in (RunState.DONE, RunState.STALE):
            return False
        files = manifest["files"]
        if not any(self.checkpoints.glob("step_*")):
            # A run that is done needs none; removing them all to save disk is no damage, and must not cost
            # the run.
            files = {name: size for name, size in files.items() if not name.startswith("checkpoints/")}
        return all(
            (self.path / name).exists() and (self.path / name).stat().st_size == size
            for name, size in files.items()
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process, however it ends.

        Raises:
            RunError: if another process runs in this folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                f"out: cannot write to {self.path} ({error}); set out= to a folder that can be written to"
            ) from error
        with lock as file:
            try:
                # Twice: whoever asks `held` has the lock for an instant.
                for last in (False, True):
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except OSError:
                        if last:
                            raise
                        time.sleep(0.2)
            except OSError as error:
                raise RunError(
                    f"{self.path} is being run by another process: wait for it, or stop it"
                ) from error
            yield

    def held(self) -> bool:
        """Whether a process runs in this folder, as far as this machine can see."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def run_folders(root: Path) -> list[Path]:
    """Every run's folder below `root`, by name; runs may be writing to them.

    Hidden folders are a sweep's own: the code that its jobs run may hold finished runs, as its tests do.
    """
    runs = []
    # Unlike `rglob`, it passes over a folder that is renamed meanwhile, as a checkpoint's is.
    for folder, below, files in os.walk(root):
        if "manifest.json" in files:
            runs.append(Path(folder))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(runs)


def timestamp() -> str:
    """The time, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
