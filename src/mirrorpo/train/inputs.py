"""What a run that is loaded is made of: the questions by content, and what its settings name."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mirrorpo.config.values import Config
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Dataset, DeclaresFiles, Split
from mirrorpo.run.file_hash import file_hash
from mirrorpo.run.inputs import DATASET, PROMPTS, InputFiles, InputReader, file_inputs, texts
from mirrorpo.train.build import build_dataset


def content_hash(prompts: Iterable[Prompt]) -> str:
    """16 hexadecimal digits over everything that questions hold, whatever file or server they came from."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(dataclasses.asdict(prompt)).encode() + b"\n")
    return digest.hexdigest()[:16]


def dataset_inputs(config: Config, splits: Iterable[Split]) -> dict[str, str]:
    """The content of splits, read for this.

    Raises:
        ValueError: if a split cannot be read.
    """
    dataset = build_dataset(config)
    return {DATASET + split: content_hash(dataset.load(split)) for split in splits}


def loaded_inputs(config: Config, content: Mapping[Split, str], prompts: str) -> dict[str, str]:
    """The inputs of a run that is loaded.

    Args:
        config: its settings.
        content: the hash of each split that was read.
        prompts: the hash of the rendered prompts.
    """
    of_splits = {DATASET + split: value for split, value in content.items()}
    return {**of_splits, **file_inputs(config, InputReader()), PROMPTS: prompts}


def input_files(dataset: Dataset, config: Config, splits: Iterable[Split]) -> InputFiles:
    """The files behind splits, each by the setting that leads to it; None where the dataset does not say."""
    if not isinstance(dataset, DeclaresFiles):
        return None
    settings = [(key, value) for key, value in texts(config["dataset"], "dataset") if value]
    return {split: _recorded(dataset.files(split), settings) for split in splits}


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
