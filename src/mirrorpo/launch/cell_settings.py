"""Which settings tell the cells of a sweep apart: a folder's name has only a hash of them.

Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.settings_file import NAME


def settings_of(run: Path) -> dict[str, str]:
    """What differs in a run from the settings of its named choices, as text; empty where nothing is known."""
    file = run.parent / NAME
    if file.is_file():
        lines = file.read_text(errors="replace").splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}
    try:
        # Older folders have it in the manifest alone.
        settings = RunFolder(run).manifest().get("settings")
    except RunError:
        return {}
    return {key: str(value) for key, value in settings.items()} if isinstance(settings, Mapping) else {}


def told_apart(all_settings: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """The settings that all cells share, and each one's others.

    Example:
        >>> told_apart([{"steps": "2", "lr": "0.1"}, {"steps": "2"}])
        (['steps=2'], [['lr=0.1'], []])
    """
    listed = [[f"{key}={value}" for key, value in settings.items()] for settings in all_settings]
    shared = [text for text in (listed or [[]])[0] if all(text in other for other in listed)]
    return shared, [[text for text in texts if text not in shared] for texts in listed]
