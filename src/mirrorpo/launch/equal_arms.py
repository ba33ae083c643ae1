"""Arms of a grid that are one run by construction: they differ in nothing that has an effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorpo.config.identity import differences, digest, identity
from mirrorpo.config.values import Config
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.plan import Checker, PlannedCell

if TYPE_CHECKING:
    from mirrorpo.core.protocols import Inert


@dataclass(frozen=True, slots=True)
class EqualArms:
    """Cells of one seed that are the same run.

    Attributes:
        cells: two or more, of different configs.
        inert: what they may differ in, and why that has no effect.
    """

    cells: Sequence[PlannedCell]
    inert: Sequence["Inert"]

    def describe(self) -> str:
        """Which cells, in what they differ, and what would part them."""
        first, *others = [planned.cell.config for planned in self.cells if planned.cell is not None]
        differing = {key for other in others for key in differences(first, other)}
        reasons = [entry for entry in self.inert if any(_below(key, entry) for key in differing)]
        shared = set.intersection(*(set(planned.overrides) for planned in self.cells))
        named = [" ".join(word for word in cell.overrides if word not in shared) for cell in self.cells]
        cures = " and ".join(dict.fromkeys(entry.cure for entry in reasons))
        return (
            f"{len(named)} arms are one run by construction ({'; '.join(named)}): "
            f"{'; '.join(dict.fromkeys(entry.reason for entry in reasons))}. "
            f"Set {cures} to part them, or allow_equal_arms=true to run each of them"
        )


def equal_arms(grid: Sequence[PlannedCell], check: Checker) -> list[EqualArms]:
    """The groups of cells that are one run, seeds of one group once.

    Args:
        grid: all cells; those that do not compose or build are passed over.
        check: knows the parts of each arm.
    """
    groups: dict[str, list[tuple[PlannedCell, Sequence[Inert]]]] = {}
    for planned in grid:
        inert = check.inert(planned)
        if planned.cell is not None and inert is not None:
            key = effective_hash(planned.cell.config, inert)
            groups.setdefault(key, []).append((planned, inert))
    out: dict[tuple[tuple[str, ...], ...], EqualArms] = {}
    for group in groups.values():
        cells = {planned.cell.hash: planned for planned, _ in group if planned.cell is not None}
        if len(cells) > 1:
            entries = dict.fromkeys(entry for _, inert in group for entry in inert)
            arms = tuple(planned.arm for planned in cells.values())
            out.setdefault(arms, EqualArms(list(cells.values()), list(entries)))
    return list(out.values())


def refuse_equal_arms(grid: Sequence[PlannedCell], check: Checker) -> list[str]:
    """Check that no arms of a grid are one run, where that is not allowed.

    Returns:
        Notes on those that are allowed.

    Raises:
        LaunchError: naming the arms and the settings that would part them.
    """
    notes: list[str] = []
    for arms in equal_arms(grid, check):
        allowed = all(cell.cell is not None and cell.cell.config["allow_equal_arms"] for cell in arms.cells)
        if not allowed:
            raise LaunchError(arms.describe())
        notes.append(arms.describe())
    return notes


def effective_hash(config: Config, inert: Sequence["Inert"]) -> str:
    """A hash of the settings that have an effect: the same for two cells that are one run.

    Args:
        config: of a cell.
        inert: which of its settings have none.
    """
    settings = identity(config)
    kept = {key: value for key, value in settings.items() if not any(_below(key, entry) for entry in inert)}
    instead = {key: value for entry in inert for key, value in entry.same_as if value is not None}
    return digest(kept | instead)


def _below(key: str, entry: "Inert") -> bool:
    # Settings without effect, and those that could be said otherwise.
    names = (*entry.settings, *(name for name, _ in entry.same_as))
    return any(key == name or key.startswith(f"{name}.") for name in names)
