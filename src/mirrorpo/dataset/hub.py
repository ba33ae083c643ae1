"""Rows from the Hugging Face hub, or from its local cache where there is no network."""

from pathlib import Path
from typing import cast

from mirrorpo.dataset.jsonl import JsonRow


def hub_rows(
    hub: str, config: str | None, split: str, revision: str | None, files: str | None
) -> list[JsonRow]:
    """The rows of one split of a dataset on the Hugging Face hub, or of a local copy of its repository.

    Args:
        hub: name of the dataset, or the folder of the copy.
        config: which configuration of it; None: its only one.
        split: which split, as it is stored.
        revision: commit or tag; None: the latest.
        files: what to put below MIRRORPO_DATA instead, for the error; None: there is no such way.

    Raises:
        ValueError: if it is neither reachable nor in the hub's cache on this machine.
    """
    # Importing datasets takes half a second that a run from a folder need not spend.
    from datasets import Dataset, load_dataset

    try:
        rows = load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        instead = f"Set MIRRORPO_DATA to a folder with {files}, or fill" if files else "Fill"
        raise ValueError(
            f"cannot load {split!r} of dataset.hub={hub} (hub_config={config}, revision={revision}): "
            f"{' '.join(str(error).split())}. {instead} the hub cache once, where there is a network: "
            f"{download_command(hub, config, revision)}"
        ) from error
    # A named split is one dataset with a length.
    return cast("Dataset", rows).to_list()


def download_command(hub: str, config: str | None, revision: str | None) -> str:
    """The command that brings a dataset into the hub's cache, from which it is read without a network.

    >>> print(download_command("openai/gsm8k", "main", None))
    python -c "from datasets import load_dataset; load_dataset('openai/gsm8k', 'main')"
    """
    arguments = [repr(hub), *([repr(config)] if config else [])]
    arguments += [f"revision={revision!r}"] if revision else []
    return f'python -c "from datasets import load_dataset; load_dataset({", ".join(arguments)})"'


def hub_files(hub: str) -> list[Path]:
    """The files of a local copy of a dataset's repository; none where it is the hub that is named."""
    copy = Path(hub)
    hidden = (".git", ".cache")
    return sorted(
        path for path in copy.rglob("*") if path.is_file() and not any(part in hidden for part in path.parts)
    )
