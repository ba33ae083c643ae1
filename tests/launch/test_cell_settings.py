"""The settings that tell a sweep's cells apart, where their folders' names have a hash of them."""

from pathlib import Path

import pytest
from cli import cell_here

from mirrorpo.launch.cell_settings import settings_of
from mirrorpo.launch.status import main
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.settings_file import write_settings


def test_the_table_and_a_file_say_what_a_hash_stands_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shared = (f"out={tmp_path}", "steps=7", "threads=1")
    cells = [cell_here(*shared, f"lr={rate}") for rate in (0.5, 0.25)]
    for cell in cells:
        RunFolder(cell.folder).plan(cell)
    # One as folders were, of which the manifest alone knows the settings.
    write_settings(cells[0], RunFolder(cells[0].folder))
    assert (cells[0].folder.parent / "settings.txt").read_text() == "lr=0.5\nsteps=7\nthreads=1\n"
    for cell in cells:
        assert settings_of(cell.folder) == {key: str(value) for key, value in cell.settings.items()}
    assert main([str(tmp_path / "single")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "steps=7 threads=1" in lines
    for cell, rate in zip(cells, ("lr=0.5", "lr=0.25"), strict=True):
        digits = cell.label.partition("settings=")[2]
        assert any(f"settings={digits} {rate} " in line for line in lines), lines


def test_a_cell_without_settings_has_no_such_file_and_another_ranks_folder_gets_none(tmp_path: Path) -> None:
    plain, other = cell_here(f"out={tmp_path}"), cell_here(f"out={tmp_path}", "steps=7")
    for cell, folder in ((plain, plain.folder), (other, tmp_path / "rank1")):
        folder.mkdir(parents=True)
        write_settings(cell, RunFolder(folder))
    assert not list(tmp_path.rglob("settings.txt"))
