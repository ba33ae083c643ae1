"""Adapters are whole objects: what a run trained is merged or goes on, and what is adapted is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import folder, manifest, rows, succeeded, train
from torch import Tensor

from mirrorpo.distributed.fsdp import full_state_dict
from mirrorpo.model.adapter import adaptation, with_adapter
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Pretrained, reference
from mirrorpo.model.lora import Continue, Lora
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout.weights import fingerprint, merged
from mirrorpo.tools.model_table import loaded
from mirrorpo.train.model_check import model_check

LORA = Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "down_proj"])
PAPERS = Lora(
    rank=2,
    alpha=4,
    dropout=0.0,
    targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
IDS = torch.tensor([[5, 9, 4, 7, 13, 2]])


def load(path: str | Path, lora: Lora | Continue | None, dtype: Any = "float32") -> LanguageModel:
    return Pretrained(
        path=str(path), revision=None, dtype=dtype, attention="sdpa", lora=lora, gradient_checkpointing=False,
        prompt=PlainPrompt(instruct=False),
    ).load(torch.device("cpu"), 0, lambda: [])  # fmt: skip


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad(), model.evaluating(), model.computing():
        return model.network(input_ids=IDS).logits


def moved(model: LanguageModel, seed: int = 1) -> LanguageModel:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def trained_names(model: LanguageModel) -> list[str]:
    return [name for name, parameter in model.network.named_parameters() if parameter.requires_grad]


def close(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """The policy/ of a run that trained an adapter on the shipped model, and its logits."""
    path = tmp_path_factory.mktemp("policy")
    model = moved(load("mirrorpo:tiny", LORA))
    model.save(path, full_state_dict(model.network))
    return path, logits(model)


def test_it_is_merged_where_everything_trains(trained: tuple[Path, Tensor]) -> None:
    path, live = trained
    model = load(path, None)
    assert close(logits(model), live) and not close(live, logits(load("mirrorpo:tiny", None)))
    assert len(trained_names(model)) == len(list(model.network.parameters()))


def test_a_fresh_adapter_starts_from_it_and_is_loaded_again_over_it(
    trained: tuple[Path, Tensor], tmp_path: Path
) -> None:
    path, live = trained
    model = load(path, LORA)
    assert close(logits(model), live) and close(logits(reference(model)), live)
    moved(model, seed=2).save(tmp_path, full_state_dict(model.network))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(path)
    assert close(logits(load(tmp_path, None)), logits(model))


def test_it_goes_on_and_is_the_reference_as_it_lay_there(
    trained: tuple[Path, Tensor], tmp_path: Path
) -> None:
    path, live = trained
    model = load(path, Continue())
    start = reference(model)
    assert close(logits(model), live) and torch.equal(logits(start), logits(model))
    names = trained_names(model)
    assert names and all("lora_" in name and ".default." in name for name in names)
    before = logits(start)
    moved(model, seed=2)
    assert torch.equal(logits(start), before) and not close(logits(model), before)
    # Reading the reference leaves the policy's adapter on, and trained.
    assert trained_names(model) == names
    assert fingerprint(model) != fingerprint(start) and fingerprint(model) == fingerprint(model)
    plain = load("mirrorpo:tiny", None)
    plain.network.load_state_dict(dict(merged(start)), strict=False)
    assert close(logits(plain), before)
    model.save(tmp_path, full_state_dict(model.network))
    assert not (tmp_path / "start").exists()
    assert close(logits(load(tmp_path, Continue())), logits(model))
    assert not model_check(model, ["merge", "sample", "shared"]).closed


def test_it_goes_on_in_half_precision_trained_in_float32(trained: tuple[Path, Tensor]) -> None:
    model = load(trained[0], Continue(), dtype="bfloat16")
    types = {parameter.dtype for name, parameter in model.network.named_parameters() if "lora_" not in name}
    assert types == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.network.parameters() if p.requires_grad)


def test_going_on_without_an_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.lora=continue: model\.path=mirrorpo:tiny holds no adapter"):
        load("mirrorpo:tiny", Continue())


@pytest.mark.parametrize("lora", [None, Continue()], ids=["merged", "continued"])
def test_weights_that_are_not_the_adapters_are_refused(
    trained: tuple[Path, Tensor], tmp_path: Path, lora: Any
) -> None:
    from safetensors.torch import load_file, save_file

    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"model\.path=.*adapter"):
        load(tmp_path, lora)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("phi3_full", "q_proj, k_proj, v_proj, gate_proj, up_proj"),
        ("gpt2", "q_proj"),
        ("mixtral", "gate_proj"),
    ],
)
def test_targets_that_match_nothing_are_refused_with_those_there_are(name: str, missing: str) -> None:
    with pytest.raises(
        ValueError, match=rf"model\.lora\.targets=.*: {missing}.* match nothing in .*targets=null"
    ):
        with_adapter(loaded(name), PAPERS, 0)


@pytest.mark.parametrize("name", ["phi3_full", "gpt2", "mixtral", "opt", "qwen3_moe"])
def test_without_targets_every_projection_is_adapted(name: str) -> None:
    adapted = with_adapter(loaded(name), Lora(rank=2, alpha=4, dropout=0.0, targets=None), 0)
    extent = adaptation(adapted.network)
    assert extent is not None and extent["share"] == 1.0 and not extent["left_out"]
    assert extent["adapted"] == extent["projections"] > 0


def test_the_share_says_what_is_left_out() -> None:
    model = loaded("llama")
    adapted = with_adapter(model, LORA, 0)
    extent = adaptation(adapted.network)
    assert "model.lora adapts 4 of 14 projections" in adapted.notes[-1]
    assert extent is not None and adaptation(loaded("llama").network) is None
    assert extent["left_out"] == ["gate_proj", "k_proj", "o_proj", "up_proj", "v_proj"]
    assert extent["share"] == round((16 * 16 + 32 * 16) / (2 * 16 * 16 + 2 * 16 * 8 + 3 * 32 * 16), 4)


@pytest.mark.parametrize("name", ["qwen3_moe", "olmoe", "deepseek_v3_mla", "gpt_oss_full"])
def test_experts_are_merged_too(name: str) -> None:
    targets = PAPERS.targets if name in ("qwen3_moe", "olmoe") else None
    model = moved(with_adapter(loaded(name), Lora(rank=2, alpha=4, dropout=0.0, targets=targets), 0))
    plain, given = loaded(name), dict(merged(model))
    assert set(given) == set(dict(merged(plain)))
    start = dict(merged(loaded(name)))
    assert any("experts" in key and not torch.equal(given[key], start[key]) for key in given)
    plain.network.load_state_dict(given, strict=False)
    assert close(logits(plain), logits(model))


def test_dropout_on_experts_is_refused_with_the_setting() -> None:
    lora = Lora(rank=2, alpha=4, dropout=0.1, targets=PAPERS.targets)
    with pytest.raises(ValueError, match=r"model\.lora\.dropout=0\.1: .*set model\.lora\.dropout=0"):
        with_adapter(loaded("qwen3_moe"), lora, 0)


@pytest.mark.slow
def test_sft_with_an_adapter_goes_on_as_grpo_with_an_adapter(tmp_path: Path) -> None:
    small = (
        "steps=1", "prompts_per_step=2", "group_size=2", "max_new_tokens=30", "eval_questions=6",
        "eval_sampled_questions=0", "drift_questions=2", "threads=1", "tracking=none",
    )  # fmt: skip
    sft = ("algo=sft", "rollout=demonstrations", "divergence=none", "lr=1e-2", "lora@model.lora=r16")
    succeeded(train(*sft, *small, "model.lora.dropout=0", f"out={tmp_path / 'sft'}", cwd=tmp_path))
    policy = folder(tmp_path / "sft") / "policy"
    grpo = (f"model.path='{policy}'", "lora@model.lora=continue")
    succeeded(train(*grpo, *small, f"out={tmp_path / 'grpo'}", cwd=tmp_path))
    ended, began = (rows(folder(tmp_path / name) / "metrics.jsonl") for name in ("sft", "grpo"))
    # It begins where the other ended, and is its own reference.
    assert began[0]["eval/greedy_accuracy"] == ended[-1]["eval/greedy_accuracy"]
    assert began[1]["kl/reference"] == pytest.approx(0, abs=1e-9)
    entry = manifest(folder(tmp_path / "grpo"))
    assert entry["adapter"]["share"] == 1.0 and entry["model_check"]["merge"].startswith("ok")
    parameters = entry["parameters"]
    assert 0 < parameters["trained"] < parameters["all"]
    assert (folder(tmp_path / "grpo") / "policy" / "adapter_config.json").exists()
