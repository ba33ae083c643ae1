"""The one folder of a program: weighed and emptied, whatever was done to it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorpo.reward.sandbox.program import MOST_FILES, empty, size


def test_a_folder_weighs_what_is_below_it(tmp_path: Path) -> None:
    assert size(str(tmp_path)) == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(100_000))
    assert 100_000 <= size(str(tmp_path)) < 150_000


def test_too_many_files_weigh_more_than_any_limit(tmp_path: Path) -> None:
    for index in range(MOST_FILES + 1):
        (tmp_path / str(index)).touch()
    assert size(str(tmp_path)) > 1 << 60


def test_a_link_weighs_nothing_of_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    assert size(str(tmp_path / "folder")) < 10_000


@pytest.fixture
def top() -> Iterator[Path]:
    # Not pytest's folder, which is removed by recursion.
    folder = Path(tempfile.mkdtemp())
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_everything_is_removed_however_deep_and_whatever_its_mode(top: Path) -> None:
    here = os.getcwd()
    os.chdir(top)
    try:
        # Deeper than a path may be long, and than Python may recurse.
        for _ in range(1200):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    (top / "locked").mkdir()
    (top / "locked" / "inner").mkdir(mode=0)
    (top / "locked").chmod(0)
    (top / "\n0").touch()
    empty(str(top))
    assert list(top.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    empty(str(tmp_path / "folder"))
    assert (tmp_path / "kept" / "file").read_text() == "x"
