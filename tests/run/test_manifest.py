"""Manifests that are damaged: named, and made again; `test_state.py` has those with checkpoints."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mirrorpo.config.cell import AXES, Cell
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder, RunState
from mirrorpo.run.manifest import read_manifest, recovered

CELL = Cell(
    config={"seed": 0, "steps": 9, "model": {"name": "tiny"}, "out": "o", "name": "n"},
    choices=dict.fromkeys(AXES, "any"),
    settings={},
)

DAMAGED = {
    b"": "is not JSON",
    b"\0" * 50: "is not JSON",
    b'{"state": "fai': "is not JSON",
    b'{"state": "\xe9"}': "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"null": "is no JSON object",
    b"[]": "is no JSON object",
    b'{"state": "paused"}': "has the state 'paused', which is none of planned, queued",
    b'{"state": ["failed"]}': "which is none of",
    b'{"config": null}': "has no dict in 'config'",
    b'{"launches": {}}': "has no list in 'launches'",
    b'{"launches": [1]}': "has launches that are no objects",
    b'{"files": []}': "has no dict in 'files'",
}


def test_a_damaged_manifest_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert read_manifest(path) == {}
    (tmp_path / "file").write_text("")
    assert read_manifest(tmp_path / "file" / "manifest.json") == {}
    for content, fault in DAMAGED.items():
        path.write_bytes(content)
        with pytest.raises(RunError) as refused:
            read_manifest(path)
        assert str(refused.value).startswith(f"{path} ") and fault in str(refused.value), content[:40]
        assert "\n" not in str(refused.value)


def test_one_that_cannot_be_read_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(RunError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path / "manifest.json")


def test_before_the_first_checkpoint_the_config_tells_which_run_it_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(CELL.config))))
    run.manifest_path.write_text('{"sta')
    assert run.manifest()["config_hash"] == CELL.hash
    run.refuse_other_config(CELL)
    with pytest.raises(RunError, match="steps: was 9, is 10"):
        run.refuse_other_config(Cell(config={**CELL.config, "steps": 10}, choices=CELL.choices, settings={}))
    run.update_manifest(state=RunState.RUNNING)
    assert read_manifest(run.manifest_path)["state"] == "running"
    assert (tmp_path / "manifest.damaged.json").read_text() == '{"sta'


def test_with_nothing_left_one_line_names_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.manifest_path.write_text('{"sta')
    for config in (None, "", "\0\0", "[1", "seed: 0", "- 1"):
        if config is not None:
            (tmp_path / "config.yaml").write_text(config)
        assert recovered(tmp_path) is None, config
        with pytest.raises(
            RunError, match=r"manifest\.json is not JSON .* move the folder away and launch again$"
        ):
            run.manifest()
    assert run.manifest_path.read_text() == '{"sta'
