"""What many tests read is read once: forty files of a composed cell, 4,000 problems of a data set."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

parse = OmegaConf.load
PARSED: dict[str, Any] = {}


def load_once(file_: str | Path | IO[Any]) -> DictConfig | ListConfig:
    """`OmegaConf.load`, which parses the same YAML once."""
    if isinstance(file_, str | Path):
        return parse(file_)
    text = file_.read()
    if text not in PARSED:
        file_.seek(0)
        PARSED[text] = OmegaConf.to_container(parse(file_))
    return OmegaConf.create(PARSED[text])


def drawn_once(load: Callable[[Any, Any], Sequence[Any]]) -> Callable[[Any, Any], list[Any]]:
    """A data set's `load`, which draws the same problems once: all settings of a data set are in its text."""
    drawn: dict[tuple[str, str], Sequence[Any]] = {}

    @wraps(load)
    def remembered(dataset: Any, split: Any) -> list[Any]:
        key = repr(dataset), split
        if key not in drawn:
            drawn[key] = load(dataset, split)
        return list(drawn[key])

    return remembered
