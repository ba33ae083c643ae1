"""Where a split's rows are stored: a file, a folder, a folder of `save_to_disk`, or the Hugging Face hub."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast, runtime_checkable

from mirrorpo.core.protocols import Split
from mirrorpo.dataset.columns import nearest
from mirrorpo.dataset.hub import hub_files, hub_rows
from mirrorpo.dataset.stored_rows import READERS, StoredRows, form, plain_rows, read_file

ALL = "all"  # what the only split of a file is called
# What a split's files may be called.
NAMES: Mapping[Split, Sequence[str]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
Stored: TypeAlias = Mapping[Split, str]


@runtime_checkable
class Source(Protocol):
    """Stored splits: what they are called, and the rows and files of each."""

    def splits(self) -> Stored:
        """What each split is called here, as far as that is clear without a setting."""
        ...

    def rows(self, stored: str) -> StoredRows: ...

    def files(self, stored: str) -> list[Path]: ...


@dataclass(frozen=True, slots=True)
class OneFile:
    """A file, whose rows are all the questions there are."""

    path: Path

    def splits(self) -> Stored:
        """All is for training, and is cut by shares."""
        return {"train": ALL}

    def rows(self, stored: str) -> StoredRows:
        """Those of the file, or of the file beside it that a split names."""
        return read_file(self.files(stored)[0])

    def files(self, stored: str) -> list[Path]:
        """The file, or the one beside it that a split names."""
        if stored != ALL and form(Path(stored)) not in READERS:
            raise ValueError(
                f"dataset.splits: {stored!r} is no file beside {self.path}; set dataset.splits={{}}: all "
                "rows are for training, and dataset.validation_fraction and dataset.test_fraction split them"
            )
        return [self.path if stored == ALL else self.path.parent / stored]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with files named after splits (train.jsonl, data/test-00000-of-00002.parquet, dev/a.csv)."""

    path: Path

    def splits(self) -> Stored:
        """The splits that have files."""
        files = self._data_files()
        named: dict[Split, list[str]] = {
            split: [name for name in NAMES[split] if _of_split(files, name, self.path)] for split in NAMES
        }
        if many := next((names for names in named.values() if len(names) > 1), None):
            raise ValueError(
                f"dataset.source: {self.path} has files for {' and '.join(many)}; say which is which in "
                "dataset.splits"
            )
        if not any(named.values()):
            shown = ", ".join(str(file.relative_to(self.path)) for file in files[:10])
            raise ValueError(
                f"dataset.source: {self.path} has no file named after a split (train.jsonl, test.csv), only "
                f"{shown or 'none that holds rows'}; name files in dataset.splits={{train: FILE}}"
            )
        return {split: names[0] for split, names in named.items() if names}

    def rows(self, stored: str) -> StoredRows:
        """Those of a split's files, one behind the other."""
        read = [read_file(path) for path in self.files(stored)]
        if len(read) == 1:
            return read[0]
        rows = [
            type(row)(location=f"{path.name}, {row.location}", values=row.values, fault=row.fault)
            for path, file in zip(self.files(stored), read, strict=True)
            for row in file.rows
        ]
        return StoredRows(source=f"{self.path}, {stored}", rows=rows)

    def files(self, stored: str) -> list[Path]:
        """The file of that name, or those of a split of that name."""
        if form(Path(stored)) in READERS:
            return [self.path / stored]
        files = self._data_files()
        named = _of_split(files, stored, self.path)
        if not named or len({form(file) for file in named}) > 1:
            shown = [str(file.relative_to(self.path)) for file in named or files]
            raise ValueError(
                f"dataset.splits: {self.path} has {'several forms' if named else 'no file'} of {stored!r} "
                f"(it has {', '.join(shown[:10]) or 'no rows'}); name a file"
            )
        return named

    def _data_files(self) -> list[Path]:
        return [path for path in hub_files(str(self.path)) if form(path) in READERS]


@dataclass(frozen=True, slots=True)
class SavedFolder:
    """What `save_to_disk` of the `datasets` package wrote."""

    path: Path

    def splits(self) -> Stored:
        """Those of a dictionary of splits; of a single dataset all is for training."""
        stored = self._stored()
        if stored == [ALL]:
            return {"train": ALL}
        return {split: name for split, names in NAMES.items() for name in stored if name in names}

    def rows(self, stored: str) -> StoredRows:
        """Those of a split."""
        from datasets import load_from_disk

        if stored not in self._stored():
            raise ValueError(
                f"dataset.splits: {self.path} has no split {stored!r}; it has {', '.join(self._stored())}"
            )
        path = self.path if stored == ALL else self.path / stored
        try:
            saved = load_from_disk(str(path))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); save it again") from error
        return StoredRows(source=str(path), rows=list(plain_rows(cast("Iterable[object]", saved))))

    def files(self, stored: str) -> list[Path]:
        """All files of a split."""
        return hub_files(str(self.path if stored == ALL else self.path / stored))

    def _stored(self) -> list[str]:
        if not (self.path / "dataset_dict.json").is_file():
            return [ALL]
        return sorted(path.name for path in self.path.iterdir() if (path / "state.json").is_file())


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset of the Hugging Face hub, or a local copy of its repository."""

    hub: str
    config: str | None
    revision: str | None

    def splits(self) -> Stored:
        """Train and test, as most are."""
        return {"train": "train", "test": "test"}

    def rows(self, stored: str) -> StoredRows:
        """Those of a split, from the hub or from its cache."""
        rows = hub_rows(self.hub, self.config, stored, self.revision, None)
        return StoredRows(source=f"{self.hub}, {stored}", rows=list(plain_rows(rows)))

    def files(self, stored: str) -> list[Path]:
        """The files of a local copy; none of the hub."""
        return hub_files(self.hub)


def local_source(source: str, root: str | None) -> Source:
    """The source at a path, which is taken below `root` where it is no full one.

    Raises:
        ValueError: if nothing is there, naming what is like it.
    """
    path = Path(root or "") / Path(source).expanduser()
    if path.is_file():
        return OneFile(path)
    if not path.is_dir():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        guess = f" (there is {' and '.join(near)})" if near else ""
        raise ValueError(
            f"dataset.source={source}: there is no file or folder {path.absolute()}{guess}; a source that is "
            "no full path is taken below MIRRORPO_DATA, and a name of the hub belongs into dataset.hub"
        )
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return SavedFolder(path) if saved else Folder(path)


def _of_split(files: Sequence[Path], name: str, folder: Path) -> list[Path]:
    """The files of a split of that name: by their name up to a separator, or by the folder they lie in."""

    def fits(file: Path) -> bool:
        relative = file.relative_to(folder)
        stem = relative.name.partition(".")[0]
        return stem == name or stem.startswith((f"{name}-", f"{name}_")) or name in relative.parts[:-1]

    return [file for file in files if fits(file)]
