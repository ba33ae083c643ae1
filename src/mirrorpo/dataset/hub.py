"""Rows from the Hugging Face hub, or from its local cache where there is no network."""

from pathlib import Path
from typing import cast

from mirrorpo.dataset.jsonl import JsonRow


def hub_rows(hub: str, config: str, split: str, revision: str | None, files: str) -> list[JsonRow]:
    """The rows of one split of a dataset on the Hugging Face hub, or of a local copy of its repository.

    Args:
        hub: name of the dataset, or the folder of the copy.
        config: which configuration of it.
        split: which split, as it is stored.
        revision: commit or tag; None: the latest.
        files: what to put below MIRRORPO_DATA instead, for the error.

    Raises:
        ValueError: if it is neither reachable nor in the hub's cache on this machine.
    """
    # Importing datasets takes half a second that a run from a folder need not spend.
    from datasets import Dataset, load_dataset

    try:
        rows = load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {split!r} of dataset.hub={hub} (hub_config={config}, revision={revision}): "
            f"{error}. Set MIRRORPO_DATA to a folder with {files}, "
            "or connect to the network once so that the hub cache is filled"
        ) from error
    # A named split is one dataset with a length.
    return cast("Dataset", rows).to_list()


def hub_files(hub: str) -> list[Path]:
    """The files of a local copy of a dataset's repository; none where it is the hub that is named."""
    copy = Path(hub)
    hidden = (".git", ".cache")
    return sorted(
        path for path in copy.rglob("*") if path.is_file() and not any(part in hidden for part in path.parts)
    )
