"""Which cell a launcher planned for a process that it starts. Imports no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import differences
from mirrorpo.run.folder import RunFolder

OPTION = "--planned="


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell by its hash and its folder.

    Attributes:
        hash: of its config.
        folder: where it runs, as an absolute path.
    """

    hash: str
    folder: Path

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """The one that a launcher composed."""
        return cls(cell.hash, Path(os.path.abspath(cell.folder)))

    @classmethod
    def taken_from(cls, arguments: Sequence[str]) -> tuple[Self | None, list[str]]:
        """The cell that a command line names, and the command line without it."""
        rest = [argument for argument in arguments if not argument.startswith(OPTION)]
        named = [argument.removeprefix(OPTION) for argument in arguments if argument.startswith(OPTION)]
        if not named:
            return None, rest
        digits, _, folder = named[-1].partition(",")
        return cls(digits, Path(folder)), rest

    @property
    def argument(self) -> str:
        """The argument that names it."""
        return f"{OPTION}{self.hash},{self.folder}"

    def refuse_other(self, cell: Cell) -> None:
        """Check that a cell is this one.

        Raises:
            ValueError: naming the settings that differ.
        """
        here = Planned.of(cell)
        if here == self:
            return
        config = RunFolder(self.folder).manifest().get("config", {})
        changed = differences(config, cell.config) if config else {}
        settings = [f"{key}: {old!r} there, {new!r} here" for key, (old, new) in changed.items()]
        if here.folder != self.folder:
            settings.append(f"folder: {self.folder} there, {here.folder} here")
        raise ValueError(
            f"this process composes another cell than its launcher planned ({'; '.join(settings)}); "
            "both have to read the same config files: give an absolute --config-dir, and launch again"
        )
