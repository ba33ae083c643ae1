"""The source of classes and functions that a config names outside this package. Imports no torch.

Modules are found where Python would find them, and not run.
"""

import ast
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirrorpo.run.file_hash import files_hash

# The code of these is told by the package's own hash and by Python's version, or makes no numbers.
KNOWN = {"mirrorpo", "hydra", *sys.stdlib_module_names}
INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class CodeUnit:
    """A module that stands alone, or a package with all its modules.

    Attributes:
        name: as it is imported.
        root: the module's file or the package's folder.
    """

    name: str
    root: Path

    @property
    def files(self) -> dict[str, Path]:
        """Its source files by their names below the root."""
        if self.root.is_file():
            return {self.root.name: self.root}
        return {path.relative_to(self.root).as_posix(): path for path in _sources(self.root)}

    @property
    def installed(self) -> bool:
        """Whether it came from an index, as a dependency does, and is not somebody's working copy."""
        stdlib = Path(sysconfig.get_path("stdlib"))
        return self.root.is_relative_to(stdlib) or any(part in INSTALLED for part in self.root.parts)


def outside_code(targets: Iterable[str]) -> dict[str, str]:
    """A hash of each module or package that holds a target or is imported by one that does.

    Imports are followed from and into working copies; of installed packages only those that a target names
    are hashed.

    Args:
        targets: dotted names of classes and functions.

    Returns:
        The hashes by the name of the module or package; those of this package and of Python are not in it.
    """
    units: dict[str, CodeUnit] = {}
    left = {target: True for target in targets}
    seen: set[str] = set()
    while left:
        name, named = left.popitem()
        seen.add(name)
        unit = locate(name)
        if unit is None or unit.name in units or (unit.installed and not named):
            continue
        units[unit.name] = unit
        if not unit.installed:
            imported = {other for path in unit.files.values() for other in _imports(path, unit)}
            left |= dict.fromkeys(imported - seen - left.keys(), False)
    return {name: files_hash(unit.files) for name, unit in sorted(units.items())}


def locate(name: str) -> CodeUnit | None:
    """The module or package that a dotted name begins with; None where it is known otherwise or missing.

    Folders without `__init__.py` are passed through: the module in them stands alone.
    """
    first, *rest = name.split(".")
    if first in KNOWN:
        return None
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is not None:
        origin = Path(spec.origin)
        package = spec.submodule_search_locations is not None
        return CodeUnit(first, origin.parent if package else origin) if origin.is_file() else None
    return _below(first, [Path(location) for location in spec.submodule_search_locations or ()], rest)


def _below(name: str, folders: Sequence[Path], rest: Sequence[str]) -> CodeUnit | None:
    # Within folders that are no packages. The import system would run the ones above first.
    if not rest:
        return None
    found = f"{name}.{rest[0]}"
    for folder in folders:
        if (folder / rest[0] / "__init__.py").is_file():
            return CodeUnit(found, folder / rest[0])
        if (folder / f"{rest[0]}.py").is_file():
            return CodeUnit(found, folder / f"{rest[0]}.py")
    return _below(found, [folder / rest[0] for folder in folders if (folder / rest[0]).is_dir()], rest[1:])


def _sources(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in INSTALLED)
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".py"))


def _imports(path: Path, unit: CodeUnit) -> Iterator[str]:
    # Every name that the file imports, by `from` also what may be a module of a folder.
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # Within a package its tree is hashed; a module that stands alone may have siblings.
                parent = unit.name.rsplit(".", node.level)[0] if unit.root.is_file() else unit.name
                base = f"{parent}.{base}".rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
