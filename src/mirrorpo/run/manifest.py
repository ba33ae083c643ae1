"""Reading a run's manifest, and making a damaged one again from its checkpoints. Imports no torch."""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import yaml

from mirrorpo.config.identity import config_hash, digest
from mirrorpo.config.values import JsonObject
from mirrorpo.run.disk import file_digest
from mirrorpo.run.errors import RunError

MANIFEST, CONFIG = "manifest.json", "config.yaml"
CHECKPOINTS, RECORDS, DIGEST = "checkpoints", "records.json", "sha256"
# A manifest's digest of its other entries.
SEAL = "manifest_sha256"

# Ten times as fast as the one in Python, where PyYAML was built with it.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What others rely on: the types of the entries that every reader takes for granted.
TYPES = {
    "config": dict,
    "choices": dict,
    "settings": dict,
    "launches": list,
    "files": dict,
    "machine": dict,
    "prompt": dict,
    "inputs": dict,
}


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


def read_manifest(path: Path) -> JsonObject:
    """What a manifest says; empty where there is none.

    Raises:
        RunError: naming the file, if it is damaged.
    """
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        # Below a file there is no manifest either; whoever writes there says so.
        return {}
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON ({error})") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error})") from error
    if (fault := _fault(manifest)) is not None:
        raise RunError(f"{path} {fault}")
    return manifest


def sealed(entries: JsonObject) -> JsonObject:
    """A manifest's entries as they are read back, with their digest.

    Example:
        >>> sorted(sealed({"state": "done"}))
        ['manifest_sha256', 'state']
    """
    plain = json.loads(json.dumps(entries, default=str))
    return plain | {SEAL: seal(plain)}


def unsealed(manifest: JsonObject) -> JsonObject:
    """A manifest's entries without their digest."""
    return {name: value for name, value in manifest.items() if name != SEAL}


def seal(manifest: JsonObject) -> str:
    """The digest of a manifest's entries, however they are laid out in the file."""
    return digest(unsealed(manifest))


def recovered(folder: Path) -> tuple[JsonObject, str] | None:
    """The manifest of a run whose own is damaged or gone, and from what it was made.

    The newest checkpoint holds the manifest of its time. Before the first one there is the config, which is
    enough to tell whether a launch is of the same run. None where nothing of it is left.
    """
    for path in reversed(checkpoint_folders(folder / CHECKPOINTS)):
        if (records := read_records(path)) is not None and _fault(records["manifest"]) is None:
            return records["manifest"] | {"state": RunState.FAILED}, f"{CHECKPOINTS}/{path.name}"
    try:
        config = yaml.safe_load((folder / CONFIG).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or not {"seed", "steps", "model"} <= config.keys():
        return None
    entries = {"config": config, "config_hash": config_hash(config), "state": RunState.FAILED}
    return entries, CONFIG


def config_fault(folder: Path, manifest: JsonObject) -> str | None:
    """What is wrong with a run's `config.yaml`, by the settings in its manifest; None if nothing is."""
    try:
        # Reading it takes thirty times as long, and is for a file that was laid out anew and for older runs.
        if file_digest(folder / CONFIG) == manifest.get("config_sha256"):
            return None
        config = yaml.load((folder / CONFIG).read_bytes(), YAML_LOADER)
        # As JSON has them: its keys are strings.
        written = json.loads(json.dumps(config, default=str))
    except FileNotFoundError:
        return f"{CONFIG} is gone; {MANIFEST} has its settings too"
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        return f"{CONFIG} cannot be read; {MANIFEST} has its settings too"
    if written != manifest.get("config"):
        return f"{CONFIG} is not what the run wrote; {MANIFEST} has its settings too"
    return None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The renamed checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit())


def named_digests(checkpoint: Path) -> Iterator[tuple[str, str]]:
    """A checkpoint's files with what they should digest to; a digest without a name is `state.pt`'s."""
    for line in (checkpoint / DIGEST).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        yield name or "state.pt", digest


def read_records(checkpoint: Path) -> JsonObject | None:
    """What a checkpoint says of the run's other files; None where it is damaged, or older than this."""
    path = checkpoint / RECORDS
    try:
        if (RECORDS, file_digest(path)) not in named_digests(checkpoint):
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _fault(manifest: object) -> str | None:
    if not isinstance(manifest, dict):
        return "is no JSON object"
    state = manifest.get("state", RunState.PLANNED)
    if state not in list(RunState):
        return f"has the state {state!r}, which is none of {', '.join(RunState)}"
    wrong = [name for name, kind in TYPES.items() if not isinstance(manifest.get(name, kind()), kind)]
    if wrong:
        return f"has no {TYPES[wrong[0]].__name__} in {wrong[0]!r}"
    if not all(isinstance(launch, dict) for launch in manifest.get("launches") or ()):
        return "has launches that are no objects"
    return None
