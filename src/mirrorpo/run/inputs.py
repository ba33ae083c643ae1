"""What a run is made of beside its settings: data, weights, outside code. Imports no torch.

A manifest has it under `inputs`, a readable name and a hash each:

    dataset train                   the questions of a split, by content
    dataset gsm8k/test              those of an evaluation set
    model.path/model.safetensors    a file of the folder that a setting names
    divergence.potential.parameters.path    a file that a setting names
    code mine                       a module or package outside this one that a `_target_` names, or that
                                    such a module imports
    prompts                         the evaluation's questions as the model sees them
    prompts gsm8k                   those of an evaluation set

and under `input_files` the files that the dataset says it reads, so that a finished run can be recognised
without loading the data.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mirrorpo.config import paths
from mirrorpo.config.identity import in_a_run, is_identity
from mirrorpo.config.renamed import upgraded
from mirrorpo.config.values import Config, JsonObject
from mirrorpo.run.errors import RunError
from mirrorpo.run.file_hash import file_hash
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.model_run import policy_folder
from mirrorpo.run.source_code import outside_code

# Hashes by the readable name of what they are of.
Inputs: TypeAlias = Mapping[str, str]
# By split the files that it is read from; None where the dataset does not say.
InputFiles: TypeAlias = Mapping[str, Sequence[Mapping[str, str | None]]] | None

PROMPTS = "prompts"
DATASET = "dataset "
CODE = "code "
SHIPPED = "mirrorpo:"
# Of a model's folder what may be read from it: configuration, weights, tokenizer, chat template.
MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe")
# What trainers leave beside a model and nothing reads to use it.
BESIDE_A_MODEL = {
    "trainer_state.json",
    "training_args.bin",
    "optimizer.bin",
    "scheduler.bin",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "LICENSE.txt",
    "requirements.txt",
}
SHOWN = 5


@dataclass(frozen=True, slots=True)
class InputReader:
    """Hashes of files and of outside code, each read once."""

    _files: dict[Path, str] = field(default_factory=dict)
    _code: dict[frozenset[str], Mapping[str, str]] = field(default_factory=dict)

    def file(self, path: Path) -> str:
        """The hash of a file.

        Raises:
            OSError: if it cannot be read.
        """
        if path not in self._files:
            self._files[path] = file_hash(path)
        return self._files[path]

    def code(self, targets: Iterable[str]) -> Mapping[str, str]:
        """The hashes of what holds some classes and functions, by module or package."""
        named = frozenset(targets)
        if named not in self._code:
            self._code[named] = outside_code(named)
        return self._code[named]


def file_inputs(config: Config, reader: InputReader) -> dict[str, str]:
    """The inputs that can be told from settings alone: files, folders of models, outside code.

    Raises:
        ValueError: if a file that is there cannot be read.
    """
    settings = [(setting, value) for setting, value in texts(upgraded(config)) if is_identity(setting)]
    files = {
        name: path
        for setting, value in settings
        if not _names_code(setting, value)
        for name, path in _files(setting, value)
    }
    code = reader.code(value for setting, value in settings if _names_code(setting, value))
    return {
        **{name: _hash(name, path, reader) for name, path in files.items()},
        **{CODE + name: value for name, value in code.items()},
    }


def _hash(name: str, path: Path, reader: InputReader) -> str:
    try:
        return reader.file(path)
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read ({error.strerror}); make it readable") from error


def texts(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text among settings, with its dotted key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from texts(item, f"{prefix}[{index}]")
    elif isinstance(value, str):
        yield prefix, value


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model's folder that make it what it is, by name; an adapter's base is among them."""
    kept = {
        path.relative_to(folder).as_posix(): path
        for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")])
        if path.suffix in MODEL_SUFFIXES and path.name not in BESIDE_A_MODEL and path.is_file()
    }
    if any(name.endswith(".safetensors") for name in kept):
        # These are read first; older weights beside them are not read at all.
        kept = {name: path for name, path in kept.items() if path.suffix != ".bin"}
    base = _adapted(folder)
    return kept | ({f"base/{name}": path for name, path in model_files(base).items()} if base else {})


def hub_commit(config: Config) -> str | None:
    """The commit that the hub's cache on this machine has for `model.path`; None where it does not say."""
    model: Config = config.get("model") or {}
    name = model.get("path")
    if not isinstance(name, str) or name.startswith(SHIPPED) or Path(name).exists():
        return None
    revision = model.get("revision") or "main"
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    try:
        return (cache / f"models--{name.replace('/', '--')}" / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None


def setting_of(name: str, config: Config) -> str:
    """The setting that an input's name begins with; empty where it begins with none.

    Example:
        >>> setting_of("model.path/config.json", {"model": {"path": "/m"}}), setting_of("code mine", {})
        ('model.path', '')
    """
    settings = [setting for setting, _ in texts(config) if name == setting or name.startswith(setting + "/")]
    return max(settings, key=len, default="")


def located(file: Mapping[str, str | None], config: Config) -> Path | None:
    """Where a recorded file is under today's settings; None where the setting that named it is gone."""
    setting, name = file["setting"], file["file"]
    if not setting:
        return Path(str(name))
    value = dict(texts(upgraded(config))).get(setting)
    return Path(value) / str(name) if value else None


def changes(recorded: Inputs, today: Inputs) -> list[str]:
    """What differs between two mappings of inputs, a readable text each."""
    names = sorted(recorded.keys() | today.keys())
    return [
        f"{name}: was {recorded.get(name, 'absent')}, is {today.get(name, 'absent')}"
        for name in names
        if recorded.get(name) != today.get(name)
    ]


def recorded_inputs(manifest: JsonObject) -> dict[str, str]:
    """What a manifest says that its run is made of; of an older one the prompts alone."""
    prompts = (manifest.get("prompt") or {}).get("hash")
    known = {PROMPTS: prompts} if prompts else {}
    return {**known, **(manifest.get("inputs") or {})}


def refuse_other_inputs(folder: RunFolder, today: Inputs) -> None:
    """Check that a run that goes on finds what it began with.

    Raises:
        RunError: naming what changed.
    """
    manifest = folder.manifest()
    recorded = recorded_inputs(manifest)
    if manifest.get("inputs") is None:
        today = {name: value for name, value in today.items() if name in recorded}
    if changed := changes(recorded, today):
        raise other_inputs(folder, changed)


def other_inputs(folder: RunFolder, changed: Sequence[str]) -> RunError:
    """The refusal of a folder whose run is made of other things, in one line."""
    more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return RunError(
        f"{folder.path} holds a run that was made of something else ({'; '.join(changed[:SHOWN])}{more}). "
        "Restore it, or run under another name= or out=, or move the folder away"
    )


def _names_code(setting: str, value: str) -> bool:
    # `hydra.utils.get_method` and its like name their object by `path`.
    last = setting.rpartition(".")[2]
    return last == "_target_" or (last == "path" and _is_dotted_name(value) and not Path(value).exists())


def _is_dotted_name(value: str) -> bool:
    return "." in value and all(part.isidentifier() for part in value.split("."))


def _files(setting: str, value: str) -> Iterator[tuple[str, Path]]:
    # The files behind a setting: the one that it names, or those of the model's folder that it names. A
    # dataset is told by its content.
    if in_a_run(setting).startswith("dataset."):
        return
    path = _shipped(setting, value) if value.startswith(SHIPPED) else Path(value)
    separated = os.sep in value or value.startswith(SHIPPED)
    with suppress(OSError, ValueError):
        # A text that is no path may be too long for one or hold what no path can.
        if setting.startswith("model.") and (separated or setting == "model.path") and path.is_dir():
            # A run without a policy is for the model to refuse.
            folder = policy_folder(path) if setting == "model.path" else path
            yield from ((f"{setting}/{name}", file) for name, file in model_files(folder).items())
        elif (separated or path.suffix) and path.is_file():
            yield setting, path


def _shipped(setting: str, value: str) -> Path:
    name = value.removeprefix(SHIPPED)
    below = paths.PACKAGE / setting.partition(".")[0]
    return below / "maps" / f"{name}.json" if (below / "maps").is_dir() else below / name


def _adapted(folder: Path) -> Path | None:
    """The local folder of the model that an adapter's folder was trained on."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        # For the library to refuse, when it loads the model.
        return None
    known = isinstance(base, str) and Path(base).is_dir() and Path(base).resolve() != folder.resolve()
    return Path(base) if known else None
