"""What settings name: files, folders of models, code; and how a difference is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from mirrorpo.run.folder import RunError, RunFolder
from mirrorpo.run.inputs import (
    InputReader,
    changes,
    file_inputs,
    hub_commit,
    located,
    model_files,
    recorded_inputs,
    refuse_other_inputs,
)

WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json", "merges.txt", "chat_template.jinja")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_models_folder_is_what_is_read_of_it(tmp_path: Path) -> None:
    beside = ("README.md", "optimizer.pt", "training_args.bin", "pytorch_model.bin", "runs/events.json")
    named = "additional_chat_templates/rag.jinja"
    assert sorted(model_files(write(tmp_path, *WEIGHTS, *beside, named))) == sorted([*WEIGHTS, named])
    (tmp_path / "model.safetensors").unlink()
    assert "pytorch_model.bin" in model_files(tmp_path)


def test_an_adapters_base_is_part_of_it(tmp_path: Path) -> None:
    base, adapter = (
        write(tmp_path / "base", *WEIGHTS),
        write(tmp_path / "adapter", "adapter_model.safetensors"),
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert {"adapter_model.safetensors", "base/model.safetensors"} <= model_files(adapter).keys()
    for text in ("{", "[]", json.dumps({"base_model_name_or_path": str(adapter)})):
        (adapter / "adapter_config.json").write_text(text)
        assert sorted(model_files(adapter)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_settings_name_files_and_texts_name_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "model/config.json", "tokens/tokenizer.json", "map.json", "sdpa", "out/a.txt", "log.txt")
    monkeypatch.chdir(tmp_path)
    config: dict[str, Any] = {
        "model": {"path": "model", "attention": "sdpa", "tokenizer": str(tmp_path / "tokens")},
        "divergence": {"potential": {"parts": [{"path": "map.json"}]}},
        # No paths; what is told by content; plumbing.
        "reward": {"rubric": "x/" * 9000, "other": "\0/", "sum": "1/2"},
        "dataset": {"root": str(tmp_path), "plus": str(tmp_path / "map.json")},
        "tracking": {"file": "log.txt", "_target_": "yaml.YAMLObject"},
    }
    assert sorted(file_inputs(config, InputReader())) == [
        "divergence.potential.parts[0].path",
        "model.path/config.json",
        "model.tokenizer/tokenizer.json",
    ]


def test_what_ships_with_the_package_is_hashed_too() -> None:
    shipped = {
        "model": {"path": "mirrorpo:tiny"},
        "divergence": {"potential": {"parameters": {"path": "mirrorpo:negative_entropy"}}},
    }
    names = file_inputs(shipped, InputReader()).keys()
    assert {"model.path/model.safetensors", "divergence.potential.parameters.path"} <= names


def test_code_is_named_by_a_target_or_by_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "inputs_a.py", "inputs_b.py")
    monkeypatch.syspath_prepend(tmp_path)
    reward = {"_target_": "hydra.utils.get_method", "path": "inputs_b.reward"}
    assert file_inputs({"rollout": {"_target_": "inputs_a.X"}, "reward": reward}, InputReader()).keys() == {
        "code inputs_a",
        "code inputs_b",
    }


def test_the_commit_of_a_model_from_the_hub_is_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "models--own--name/refs/main")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert hub_commit({"model": {"path": "own/name", "revision": None}}) == "models--own--name/refs/main"
    for model in ({"path": "own/other"}, {"path": "own/name", "revision": "v2"}, {"path": str(tmp_path)}, {}):
        assert hub_commit({"model": model}) is None


def test_a_recorded_file_is_found_by_todays_setting() -> None:
    file = {"setting": "dataset.root", "file": "gsm8k/train.jsonl", "hash": "0"}
    assert located(file, {"dataset": {"root": "/b"}}) == Path("/b/gsm8k/train.jsonl")
    assert located(file, {"dataset": {"root": None}}) is None
    assert located({"setting": None, "file": "/fixed", "hash": "0"}, {}) == Path("/fixed")


def test_a_difference_is_told_by_name_with_both_values() -> None:
    assert changes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == [
        "a: was 1, is absent",
        "b: was 2, is 3",
        "c: was absent, is 4",
    ]


def test_a_refusal_is_one_line_and_an_older_manifest_knows_its_prompts_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    refuse_other_inputs(folder, {"prompts": "any"})
    folder.update_manifest(prompt={"hash": "1"})
    assert recorded_inputs(folder.manifest()) == {"prompts": "1"}
    refuse_other_inputs(folder, {"prompts": "1", "code mine": "2"})
    with pytest.raises(RunError, match="prompts: was 1, is 2"):
        refuse_other_inputs(folder, {"prompts": "2"})
    folder.update_manifest(inputs={str(number): "1" for number in range(9)})
    with pytest.raises(
        RunError, match=r"0: was 1, is 2; .*; and \d more\)\. Restore .* name= or out="
    ) as error:
        refuse_other_inputs(folder, {"prompts": "1", **{str(number): "2" for number in range(9)}})
    assert "\n" not in str(error.value)
