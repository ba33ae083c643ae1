"""A run's folder as a model: its policy, and where that came from. Imports no torch."""

from pathlib import Path

from mirrorpo.config.values import Config, JsonObject
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.manifest import MANIFEST

POLICY = "policy"
MODEL_FILES = ("config.json", "adapter_config.json")
# What of a manifest says which run it is of.
ORIGIN = ("choices", "settings", "config_hash", "state", "wandb_id", "code", "codes")


def policy_folder(path: Path) -> Path:
    """The folder of the model that a path names: of a run's folder its policy, of any other itself.

    Raises:
        ValueError: if it is a run's folder without a policy.
    """
    if not (path / MANIFEST).is_file() or any((path / name).is_file() for name in MODEL_FILES):
        return path
    policy = path / POLICY
    if not any((policy / name).is_file() for name in MODEL_FILES):
        state = RunFolder(path).manifest().get("state")
        raise ValueError(f"model.path={path}: this run has no policy yet (it is {state}); let it end first")
    return policy


def model_run(config: Config) -> JsonObject | None:
    """The run whose policy `model.path` names, and the one that it came from; None where it names none."""
    value = config["model"].get("path")
    path = Path(value) if isinstance(value, str) else None
    if path is None or not path.is_dir():
        return None
    folder = path.resolve()
    folder = folder.parent if folder.name == POLICY and not (folder / MANIFEST).exists() else folder
    try:
        manifest = RunFolder(folder).manifest() if (folder / MANIFEST).is_file() else {}
    except RunError:
        # Its policy may be whole all the same.
        return {"folder": str(folder)}
    if not manifest:
        return None
    made = manifest.get("config", {})
    origin = {name: manifest[name] for name in ORIGIN if name in manifest}
    return {
        "folder": str(folder),
        **origin,
        **{name: made.get(name) for name in ("name", "seed", "steps")},
        "prompt": made.get("model", {}).get("prompt"),
        "model_run": manifest.get("model_run"),
    }


def other_prompt_note(config: Config, origin: JsonObject | None) -> list[str]:
    """One line, where a run's policy is shown its questions in another form than it was trained with."""
    trained = (origin or {}).get("prompt")
    if origin is None or trained is None or trained == config["model"].get("prompt"):
        return []
    model = origin.get("choices", {}).get("model")
    return [f"model.path: {origin['folder']} was trained with another model.prompt, that of model={model}"]
