"""A run's folder given as a model: its policy is read, and the manifest says which run it came from."""

import json
from pathlib import Path
from typing import Any

import pytest

from mirrorpo.run.inputs import InputReader, file_inputs
from mirrorpo.run.model_run import model_run, other_prompt_note, policy_folder

MANIFEST: dict[str, Any] = {
    "state": "done",
    "config_hash": "abc",
    "choices": {"model": "tiny"},
    "settings": {"lr": 0.1},
    "wandb_id": "w",
    "config": {
        "name": "sweep",
        "seed": 3,
        "steps": 7,
        "model": {"path": "base", "prompt": {"template": "a"}},
    },
}


def run(folder: Path, *, policy: str | None = "config.json", **changes: Any) -> Path:
    """A run's folder; `policy` is the file that its policy has."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | changes))
    if policy:
        (folder / "policy").mkdir()
        (folder / "policy" / policy).write_text("{}")
        (folder / "policy" / "model.safetensors").write_bytes(b"weights")
        # The card is for people, and no input.
        (folder / "policy" / "README.md").write_text("a card")
    return folder


def config(path: Path | str, template: str = "a") -> dict[str, Any]:
    return {"model": {"path": str(path), "prompt": {"template": template}}}


def test_the_model_of_a_run_is_its_policy_and_of_any_other_folder_itself(tmp_path: Path) -> None:
    for name, file in (("full", "config.json"), ("adapter", "adapter_config.json")):
        folder = run(tmp_path / name, policy=file)
        assert policy_folder(folder) == folder / "policy", name
    plain = tmp_path / "plain"
    plain.mkdir()
    assert policy_folder(plain) == plain
    # A manifest of something else beside a model.
    (plain / "config.json").write_text("{}")
    (plain / "manifest.json").write_text("{}")
    assert policy_folder(plain) == plain
    with pytest.raises(ValueError, match=r"model\.path=.*: this run has no policy yet \(it is failed\)"):
        policy_folder(run(tmp_path / "failed", policy=None, state="failed"))


def test_a_run_and_its_policy_are_the_same_input(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    by_run, by_policy = (file_inputs(config(path), InputReader()) for path in (folder, folder / "policy"))
    assert by_run == by_policy and set(by_run) == {"model.path/config.json", "model.path/model.safetensors"}


def test_the_run_behind_a_model_is_named_with_the_run_behind_that(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    second = run(tmp_path / "second", model_run={"folder": str(first)})
    for path in (second, second / "policy"):
        origin = model_run(config(path))
        assert origin is not None
        assert origin == {
            "folder": str(second),
            "choices": {"model": "tiny"},
            "settings": {"lr": 0.1},
            "config_hash": "abc",
            "state": "done",
            "wandb_id": "w",
            "name": "sweep",
            "seed": 3,
            "steps": 7,
            "prompt": {"template": "a"},
            "model_run": {"folder": str(first)},
        }
    for other in ("mirrorpo:tiny", "owner/name", str(tmp_path)):
        assert model_run(config(other)) is None, other
    assert model_run({"model": {"architecture": {}}}) is None


def test_questions_in_another_form_than_the_run_was_trained_with_are_a_note(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    same, other = config(folder), config(folder, template="b")
    assert other_prompt_note(same, model_run(same)) == []
    (note,) = other_prompt_note(other, model_run(other))
    assert str(folder) in note and "another model.prompt, that of model=tiny" in note
    assert other_prompt_note(other, None) == []
