"""What a run that is loaded is made of: the questions by content, and what its settings name."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.values import Config
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Dataset, DeclaresFiles, Split
from mirrorpo.run.file_hash import file_hash
from mirrorpo.run.inputs import DATASET, PROMPTS, InputFiles, InputReader, file_inputs, texts
from mirrorpo.train.build import build_dataset, build_eval_sets
from mirrorpo.train.eval_set import EvalSet, split_of

COLUMNS = [column.name for column in dataclasses.fields(Prompt)]


def content_hash(prompts: Iterable[Prompt]) -> str:
    """16 hexadecimal digits over everything that questions hold, whatever file or server they came from."""
    digest = hashlib.sha256()
    for prompt in prompts:
        # As `asdict` of the prompt, which copies every text of it.
        row = {name: getattr(prompt, name) for name in COLUMNS}
        digest.update(json.dumps(row, default=dataclasses.asdict).encode() + b"\n")
    return digest.hexdigest()[:16]


def dataset_inputs(config: Config, names: Iterable[str]) -> dict[str, str]:
    """The content of splits, read for this.

    Args:
        config: of the run.
        names: of splits, as `train`; of an evaluation set's, as `gsm8k/test`.

    Raises:
        ValueError: if a split cannot be read.
    """
    out: dict[str, str] = {}
    for content_name in names:
        name, split = split_of(content_name)
        dataset = build_dataset(config) if name is None else build_eval_sets(config)[name].dataset
        out[DATASET + content_name] = content_hash(dataset.load(cast("Split", split)))
    return out


def loaded_inputs(
    config: Config, content: Mapping[str, str], prompts: str, of_sets: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The inputs of a run that is loaded.

    Args:
        config: its settings.
        content: the hash of each split that was read, by its name.
        prompts: the hash of the rendered prompts.
        of_sets: the same of each evaluation set beside the run's own.
    """
    of_splits = {DATASET + split: value for split, value in content.items()}
    rendered = {f"{PROMPTS} {name}": value for name, value in (of_sets or {}).items()}
    return {**of_splits, **file_inputs(config, InputReader()), PROMPTS: prompts, **rendered}


def input_files(dataset: Dataset, config: Config, splits: Iterable[Split]) -> InputFiles:
    """The files behind splits, each by the setting that leads to it; None where the dataset does not say."""
    return _files_of(dataset, config["dataset"], "dataset", {split: split for split in splits})


def set_files(
    config: Config, sets: Mapping[str, EvalSet]
) -> Mapping[str, Sequence[Mapping[str, str | None]]]:
    """The files behind evaluation sets whose datasets say which they are, by the names of their contents."""
    out: dict[str, Sequence[Mapping[str, str | None]]] = {}
    for name, eval_set in sets.items():
        node, setting = config[EVAL_SETS][name]["dataset"], f"{EVAL_SETS}.{name}.dataset"
        files = _files_of(eval_set.dataset, node, setting, {eval_set.content_name: eval_set.split})
        out |= files or {}
    return out


def _files_of(dataset: Dataset, node: Config, setting: str, splits: Mapping[str, Split]) -> InputFiles:
    if not isinstance(dataset, DeclaresFiles):
        return None
    settings = [(key, value) for key, value in texts(node, setting) if value]
    return {name: _recorded(dataset.files(split), settings) for name, split in splits.items()}


def _recorded(
    files: Iterable[Path], settings: Sequence[tuple[str, str]]
) -> Sequence[Mapping[str, str | None]]:
    out: list[Mapping[str, str | None]] = []
    for path in files:
        leading = [(key, value) for key, value in settings if path.is_relative_to(value)]
        key, value = max(leading, key=lambda item: len(item[1]), default=(None, ""))
        name = str(path.relative_to(value)) if key else str(path.resolve())
        out.append({"setting": key, "file": name, "hash": file_hash(path)})
    return out
