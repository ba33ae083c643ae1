"""A map's file is found by its path or by the name that it ships under."""

from pathlib import Path

import pytest

from mirrorpo.divergence.map_file import map_file


@pytest.mark.parametrize("name", ["negative_entropy", "generation"])
def test_what_ships_is_there_and_can_be_read(name: str) -> None:
    assert map_file(f"mirrorpo:{name}").read_text().strip()


def test_a_path_is_itself(tmp_path: Path) -> None:
    (tmp_path / "mirrorpo.json").write_text("[]")
    assert map_file(str(tmp_path / "mirrorpo.json")) == tmp_path / "mirrorpo.json"
