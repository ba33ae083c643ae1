"""An archive, unpacked into a folder: nothing leaves it, and what is not as listed is named."""

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from analysis.data.schema import Json
from analysis.kit.contents import CONTENTS
from mirrorpo.run.disk import file_digest
from mirrorpo.run.manifest import SEAL, seal

BLOCK = 1 << 20
GZIP = b"\x1f\x8b"
# What compressed or archived bytes are refused with; Arrow's own errors are errors of values or of files.
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An archive's files.

    Attributes:
        root: the folder of the sweep.
        contents: `archive.json`; empty where it cannot be read.
        faults: a readable line each.
    """

    root: Path
    contents: Json
    faults: list[str]


def unpack(path: Path, target: Path) -> Unpacked:
    """Unpack an archive, and compare what was in it with its list.

    Args:
        path: of the archive.
        target: an empty folder.

    Raises:
        ValueError: if it is no archive of a sweep.
    """
    faults: list[str] = []
    tops: dict[str, None] = {}
    names: set[str] = set()
    try:
        with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                top, name, fault = _placed(member, names)
                if fault:
                    faults.append(f"{member.name}: {fault}, and was not unpacked")
                    continue
                tops[top] = None
                names.add(name)
                _write(tar, member, target / name)
            # The checksum of all that was compressed stands at its end.
            while stream.read(BLOCK):
                pass
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except DAMAGE as error:
        faults.append(
            f"{path.name} is damaged behind {len(names)} files ({_first_line(error)}): fetch it again"
        )
    if len(tops) > 1:
        faults.append(f"its files lie in several folders ({', '.join(tops)})")
    root = target.rename(target.with_name(next(iter(tops)))) if tops else target
    contents, of_list = _contents(root)
    if not names:
        raise ValueError(f"{path}: no archive of a sweep ({'; '.join(faults) or 'it is empty'})")
    return Unpacked(root, contents, [*faults, *of_list, *_differing(root, contents, names)])


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with path.open("rb") as file:
        kind = file.read(2)
    if kind == GZIP:
        with gzip.open(path, "rb") as stream:
            yield stream
    else:
        with pa.input_stream(str(path), compression="zstd") as stream:
            yield stream


def _placed(member: tarfile.TarInfo, names: set[str]) -> tuple[str, str, str]:
    """A member's first folder, its name below that, and why it is not unpacked; "" where it is."""
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or "\\" in member.name:
        return "", "", "leads out of the archive's folder"
    if not member.isreg():
        return "", "", "is no plain file but a link, a folder or a device"
    if len(parts) < 2:
        return "", "", "does not lie in the archive's folder"
    name = "/".join(parts[1:])
    return parts[0], name, "stands in the archive twice" if name in names else ""


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while block := content.read(BLOCK):
            file.write(block)


def _contents(root: Path) -> tuple[Json, list[str]]:
    try:
        contents: Json = json.loads((root / CONTENTS).read_bytes())
        files = contents["files"]
        broken = not all({"sha256", "bytes"} <= entry.keys() for entry in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [f"{CONTENTS} is missing or cannot be read ({_first_line(error)})"]
    if broken or seal(dict(contents)) != contents.get(SEAL):
        return contents if not broken else {}, [f"{CONTENTS} was changed: its own sha256 does not fit"]
    return contents, []


def _differing(root: Path, contents: Json, names: set[str]) -> Iterator[str]:
    listed: Json = contents.get("files", {})
    for name, entry in listed.items():
        if name not in names:
            yield f"{name} is missing"
        elif file_digest(root / name) != entry["sha256"]:
            yield f"{name} was changed: its sha256 is not that of {CONTENTS}"
    if listed:
        yield from (f"{name} is not listed in {CONTENTS}" for name in sorted(names - {*listed, CONTENTS}))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
