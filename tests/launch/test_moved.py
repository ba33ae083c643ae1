"""A sweep that was copied or moved: its commands are of the folder that they were given for."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from cli import cell_here

from mirrorpo.launch.launches import LAUNCHES, record_launch
from mirrorpo.launch.status import main
from mirrorpo.run.folder import RunFolder, RunState

WRITES = "open('given', 'a').write('once;')"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep with a stale cell and one that failed, and a command that writes down that it was given."""
    monkeypatch.chdir(tmp_path)
    cells = [f"arm/seed={seed}" for seed in range(2)]
    for cell, state in zip(cells, (RunState.STALE, RunState.FAILED), strict=True):
        run = RunFolder(tmp_path / "out" / "grid" / cell)
        config = {"out": "out", "name": "grid", "seed": 0, "steps": 1, "model": {}}
        run.update_manifest(state=state, launches=[{}], config=config, files={})
        (run.path / "config.yaml").write_text(json.dumps(config))
    record_launch(Path("out/grid"), ["-c", WRITES, "out=out", "name=grid", "seed=0"], cells)
    return tmp_path / "out" / "grid"


def without_folder(sweep: Path) -> None:
    """What an older version noted."""
    entries = json.loads((sweep / LAUNCHES).read_text())
    (sweep / LAUNCHES).write_text(json.dumps([{**entry, "folder": ""} for entry in entries]))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_retry_in_a_copy_gives_no_command_of_the_original_and_says_which_one_to_give(
    sweep: Path, capsys: pytest.CaptureFixture[str], older: bool, broken: bool
) -> None:
    copy = sweep.with_name("grid,b")
    shutil.copytree(sweep, copy)
    if older:
        without_folder(copy)
    if broken:
        for file in copy.rglob("manifest.json"):
            file.write_text("{")
    assert main([str(copy), "retry", "--stale"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"makes cells in {sweep}, from where this folder was moved or copied" in line
    command = shlex.split(line.partition("of this one: ")[2])
    assert command == ["python", "-c", WRITES, "seed=0", f"out={sweep.parent}", "name='grid,b'"]
    cell = cell_here(*command[-2:])
    assert cell.folder.parents[1] == copy
    assert not Path("given").exists() and not (copy / ".stale").exists() and len([*copy.rglob("seed=*")]) == 2


@pytest.mark.parametrize("older", [False, True])
def test_retry_where_the_sweep_was_made_gives_its_command_under_any_name_of_the_folder(
    sweep: Path, older: bool
) -> None:
    if older:
        without_folder(sweep)
    other = sweep.parent / "other"
    other.symlink_to(sweep)
    assert main(["out/grid", "retry"]) == main([str(other), "retry"]) == 0
    assert Path("given").read_text() == "once;once;"


def test_a_sweep_that_was_moved_can_be_cancelled_and_a_copy_is_not(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = sweep.with_name("copy")
    shutil.copytree(sweep, copy)
    # What runs there is the original's.
    assert main([str(copy), "cancel"]) == 2
    assert f"{copy} is a copy of {sweep}" in capsys.readouterr().err
    assert main([str(sweep), "cancel"]) == 0
    shutil.rmtree(sweep)
    assert main([str(copy), "cancel"]) == 0


def test_a_command_whose_folder_is_gone_or_that_cannot_be_read_is_a_line_and_changes_nothing(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = (sweep / LAUNCHES).read_text()
    entry = {**json.loads(noted)[0], "cwd": "/nowhere"}
    for text, said in (
        (json.dumps([entry]), "was given in /nowhere, which is gone"),
        ("{", "take it from a"),
    ):
        (sweep / LAUNCHES).write_text(text)
        assert main([str(sweep), "retry", "--stale"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {sweep / LAUNCHES}: ") and said in line
        assert not (sweep / ".stale").exists()
    assert main([str(sweep), "cancel"]) == 0
