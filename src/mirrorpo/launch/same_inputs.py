"""Whether a folder's run is made of what its cell would be made of today. Imports no torch unless it must."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from mirrorpo.config import paths
from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import EVAL_SETS, digest
from mirrorpo.config.values import Config, JsonObject
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.inputs import (
    DATASET,
    PROMPTS,
    SHIPPED,
    InputFiles,
    InputReader,
    changes,
    file_inputs,
    hub_commit,
    located,
    other_inputs,
    recorded_inputs,
    setting_of,
    texts,
)
from mirrorpo.run.provenance import code_hash

NOT_RECORDED = (
    "it was begun before runs recorded their data, weights and outside code; whether these are the same "
    "is not known"
)


class SameInputs:
    """Refuses a begun run whose data, weights or outside code are others now; reads each thing once."""

    def __init__(self) -> None:
        self._reader = InputReader()
        self._by_dataset: dict[str, str] = {}

    def __call__(self, cell: Cell, folder: RunFolder) -> list[str]:
        """What is to be said of a run that is not refused.

        Raises:
            RunError: naming what changed, and the way out.
        """
        manifest, finished = folder.manifest(), folder.finished()
        if not finished and not any(folder.checkpoints.glob("step_*")):
            # It starts from nothing, whatever it was made of.
            return []
        notes = [self._other_code(manifest)] if finished and manifest.get("code") else []
        if manifest.get("inputs") is None:
            return [NOT_RECORDED, *filter(None, notes)]
        gone = self._gone(manifest, cell) if finished else {}
        changed = [
            *self._changed_files(manifest, cell, gone),
            *self._changed_commit(manifest, cell),
            *self._changed_data(manifest, cell, gone),
        ]
        if changed:
            raise other_inputs(folder, changed)
        notes += [
            f"{setting}={value} is gone; what it held is not compared" for setting, value in gone.items()
        ]
        return [note for note in notes if note]

    def _other_code(self, manifest: JsonObject) -> str:
        same = manifest["code"] == self._code
        return "" if same else f"done by code {manifest['code']}; the code is {self._code} now"

    @cached_property
    def _code(self) -> str:
        return code_hash(paths.code())

    def _gone(self, manifest: JsonObject, cell: Cell) -> dict[str, str]:
        # A finished run needs its inputs no more; what was removed since cannot have changed it.
        before = dict(texts(manifest["config"]))
        named = {setting_of(name, manifest["config"]) for name in manifest["inputs"]}
        files = (file for split in (manifest.get("input_files") or {}).values() for file in split)
        named |= {str(file["setting"]) for file in files}
        return {
            setting: value
            for setting, value in texts(cell.config)
            if setting in named and before.get(setting) == value and _absent(value)
        }

    def _changed_files(self, manifest: JsonObject, cell: Cell, gone: Mapping[str, str]) -> list[str]:
        recorded = {
            name: value
            for name, value in recorded_inputs(manifest).items()
            if name.partition(" ")[0] != PROMPTS
            and not name.startswith(DATASET)
            and setting_of(name, manifest["config"]) not in gone
        }
        return changes(recorded, file_inputs(cell.config, self._reader))

    def _changed_commit(self, manifest: JsonObject, cell: Cell) -> list[str]:
        before, now = manifest.get("model_commit"), hub_commit(cell.config)
        if before is None or now is None or before == now:
            return []
        path = cell.config["model"]["path"]
        return [f"model.path={path}: was commit {before}, is {now} (model.revision pins one)"]

    def _changed_data(self, manifest: JsonObject, cell: Cell, gone: Mapping[str, str]) -> list[str]:
        files: InputFiles = manifest.get("input_files")
        moved = _moved(manifest, cell)
        others = [
            name
            for name in recorded_inputs(manifest)
            if name.startswith(DATASET)
            and not self._same_files(files, name.removeprefix(DATASET), cell, bool(moved))
        ]
        if not others or (gone and self._all_gone(files, gone)):
            return []
        try:
            today = {name: self._content(name, cell) for name in others}
        except (ValueError, OSError) as error:
            return [f"{', '.join(others)}: cannot be read: {error}", *moved]
        changed = changes({name: manifest["inputs"][name] for name in others}, today)
        return [*changed, *moved] if changed else []

    def _same_files(self, files: InputFiles, split: str, cell: Cell, moved: bool) -> bool:
        if files is None or split not in files:
            return False
        if not files[split]:
            # Made, or from the hub: the same as long as the settings are.
            return not moved
        return all(self._hash(located(file, cell.config)) == file["hash"] for file in files[split])

    def _all_gone(self, files: InputFiles, gone: Mapping[str, str]) -> bool:
        settings = {file["setting"] for split in (files or {}).values() for file in split}
        return bool(settings) and settings <= gone.keys()

    def _hash(self, path: Path | None) -> str | None:
        try:
            return None if path is None else self._reader.file(path)
        except OSError:
            # For the dataset to refuse.
            return None

    def _content(self, name: str, cell: Cell) -> str:
        key = digest({"dataset": cell.config["dataset"], "sets": cell.config.get(EVAL_SETS), "name": name})
        if key not in self._by_dataset:
            # Only here: a finished run whose files are the same does not wait for torch.
            from mirrorpo.train.inputs import dataset_inputs

            self._by_dataset[key] = dataset_inputs(cell.config, [name.removeprefix(DATASET)])[name]
        return self._by_dataset[key]


def _moved(manifest: JsonObject, cell: Cell) -> list[str]:
    # The datasets' settings that are no part of a run's identity, as where their files are.
    before, now = _dataset_settings(manifest["config"]), _dataset_settings(cell.config)
    return [
        f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _dataset_settings(config: Config) -> dict[str, str]:
    out = dict(texts(config.get("dataset"), "dataset"))
    for name, node in config.get(EVAL_SETS, {}).items():
        out |= texts(node["dataset"], f"{EVAL_SETS}.{name}.dataset")
    return out


def _absent(value: str) -> bool:
    return not value.startswith(SHIPPED) and not Path(value).exists()
