"""Hashes by content: small files are read, large ones remembered, and a change is never missed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorpo.run import file_hash as module
from mirrorpo.run.file_hash import file_hash, files_hash


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read; every size counts as large and the cache is the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "REMEMBERED_FROM", 0)
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    out: list[Path] = []
    read: Callable[[Path], str] = module._read
    monkeypatch.setattr(module, "_read", lambda path: [out.append(path), read(path)][1])
    return out


def test_a_large_file_is_read_once_and_again_when_it_changed(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_hash(path)
    assert file_hash(path) == first and len(reads) == 1
    # Same size, and the time of modification put back: the time of change cannot be.
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"two")
    os.utime(path, ns=times)
    assert path.stat().st_mtime_ns == times[1]
    second = file_hash(path)
    assert second != first and len(reads) == 2
    path.write_bytes(b"one")
    assert file_hash(path) == first


def test_what_was_just_written_is_not_remembered(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 60.0)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert file_hash(path) == file_hash(path) and len(reads) == 2


@pytest.mark.parametrize("entry", ["", "[]", '{"hash": "0"}', "\0\0"])
def test_a_broken_entry_is_read_over(tmp_path: Path, reads: list[Path], entry: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_hash(path)
    (remembered,) = (tmp_path / "cache/mirrorpo/hashes").iterdir()
    remembered.write_text(entry)
    assert file_hash(path) == first and len(reads) == 2


def test_without_a_cache_every_hash_is_read(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_hash(tmp_path / "file") == file_hash(tmp_path / "file") and len(reads) == 2


def test_names_count_and_the_order_does_not(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    assert files_hash({"a": a, "b": b}) == files_hash({"b": b, "a": a}) != files_hash({"a": b, "b": a})
