"""`python -m analysis archive SWEEP`: all that a sweep's tables need, as one file.

The same files give the same bytes: members are sorted and have no times, owners or machine.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from analysis.kit.contents import (
    CONTENTS,
    TABLES,
    archived_files,
    derived,
    made_by,
)
from analysis.study.options import StudyOptions
from mirrorpo.run.disk import file_digest
from mirrorpo.run.manifest import sealed

FORMAT = 1
# Endings by their compression.
ENDINGS = {".tar.zst": "zstd", ".tar.gz": "gzip"}


def archive(root: Path, target: Path, options: StudyOptions, *, weights: bool = False) -> str:
    """Write the archive of a sweep; a line that says what is in it, with its sha256.

    Args:
        root: a folder of run folders, or one that `export` wrote.
        target: the file to write, .tar.zst or .tar.gz.
        options: how the comparison is made.
        weights: each run's policy too.

    Raises:
        ValueError: if there is nothing to archive, or a guard forbids the tables.
    """
    compression = compression_of(target)
    files = archived_files(root, weights=weights)
    study, tables = derived(root, options)
    blobs = {name: text.encode() for name, text in tables.items()}
    entries = {name: (file_digest(path), path.stat().st_size) for name, path in files.items()}
    entries |= {name: (hashlib.sha256(blob).hexdigest(), len(blob)) for name, blob in blobs.items()}
    contents = {
        "format": FORMAT,
        "made_by": made_by(),
        "study": options.entry(),
        "files": {name: {"sha256": digest, "bytes": size} for name, (digest, size) in entries.items()},
    }
    blobs[CONTENTS] = (json.dumps(sealed(contents), indent=1, sort_keys=True) + "\n").encode()
    _write(target, root.resolve().name, files, blobs, compression)
    count = sum(name.startswith(TABLES) and name.endswith(".md") for name in blobs)
    return (
        f"{target}: {len(files)} files of {len(study.design.runs)} runs, {count} tables, "
        f"{target.stat().st_size / 2**20:.1f} MiB, sha256 {file_digest(target)}"
    )


def compression_of(path: Path) -> str:
    """That of a file's ending.

    Example:
        >>> compression_of(Path("sweep.tar.gz"))
        'gzip'

    Raises:
        ValueError: naming the endings there are.
    """
    for ending, compression in ENDINGS.items():
        if path.name.endswith(ending):
            return compression
    raise ValueError(f"--to {path}: give the file the ending {' or '.join(ENDINGS)}")


def _write(
    target: Path, folder: str, files: Mapping[str, Path], blobs: Mapping[str, bytes], compression: str
) -> None:
    # `archive.json` first, then by name.
    names = sorted([*files, *blobs], key=lambda name: (name != CONTENTS, name))
    with _compressed(target, compression) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in names:
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.mode = 0o644
            if name in blobs:
                member.size = len(blobs[name])
                tar.addfile(member, io.BytesIO(blobs[name]))
            else:
                member.size = files[name].stat().st_size
                with files[name].open("rb") as file:
                    tar.addfile(member, file)


@contextmanager
def _compressed(target: Path, compression: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    target.parent.mkdir(parents=True, exist_ok=True)
    if compression == "gzip":
        # Neither the name of the file nor the time is in it.
        with target.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
            yield stream
    else:
        with pa.output_stream(str(target), compression="zstd") as stream:
            yield stream
