"""Loading: dtypes, adapters, checkpointing, special ids, the head's check, the frozen reference, and errors
that say what to do.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from completions import completion_of
from safetensors.torch import load_file, save_file
from small_models import TINY, network_of
from torch import Tensor
from transformers import Qwen3ForCausalLM

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, Pretrained, Scratch, compute_dtype, finish, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate
from mirrorpo.train.display import policy_line

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
TEXTS = ["a b c d"]
IDS = torch.tensor([[5, 9, 4, 7, 13, 2], [8, 3, 3, 12, 6, 10]])
LORA = Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"])


def build(model_type: str = "qwen3", attention: str = "sdpa", **settings: Any) -> Any:
    shape = {**TINY, "vocab_size": len(word_tokenizer(TEXTS))} | settings
    return network_of(model_type, attention=attention, **shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 checkpoint as a user would have it."""
    path = tmp_path_factory.mktemp("qwen3")
    build(tie_word_embeddings=False).save_pretrained(path)
    word_tokenizer(TEXTS).save_pretrained(path)
    return path


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to break."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def load(path: str | Path, seed: int = 0, **changes: Any) -> LanguageModel:
    settings: dict[str, Any] = {
        "path": str(path),
        "revision": None,
        "dtype": "float32",
        "attention": "sdpa",
        "lora": None,
        "gradient_checkpointing": False,
        "prompt": PlainPrompt(instruct=False),
    }
    return Pretrained(**(settings | changes)).load(CPU, seed, lambda: [])


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad(), model.computing():
        return model.network(input_ids=IDS).logits


def batch() -> RolloutBatch:
    completions = [
        completion_of(row[cut:], group=i, prompt_ids=row[:cut], uid=str(i))
        for i, (row, cut) in enumerate(zip(IDS.tolist(), (2, 4), strict=True))
    ]
    return collate(completions, [0.0, 0.0], pad_id=0, mask_truncated=False)


def logprobs(model: LanguageModel) -> Tensor:
    return per_token(read_completions(model, batch(), temperature=1.0, logit_chunk=3)[0].logprobs, batch())


def train_step(model: LanguageModel) -> None:
    model.network.train()
    logprobs(model).sum().backward()
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
    model.network.eval()


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    model.network.train()
    logprobs(model).sum().backward()
    return {
        name: parameter.grad
        for name, parameter in model.network.named_parameters()
        if parameter.requires_grad
    }


def moved_on() -> Tensor:
    """The global generator's state, unlike any that a seed gives."""
    torch.rand(1)
    return torch.get_rng_state()


def layer_calls(model: LanguageModel) -> int:
    """Forward calls of the first decoder layer in one training forward and backward."""
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    with model.causal_lm.get_decoder().layers[0].input_layernorm.register_forward_hook(counted):
        gradients(model)
    return count


def test_a_folder_loads_as_the_model_that_was_saved(folder: Path) -> None:
    model = load(folder)
    torch.testing.assert_close(
        logits(model), logits(replace(model, network=build(tie_word_embeddings=False))), rtol=0, atol=0
    )


def test_a_folder_loads_its_tokenizer(folder: Path) -> None:
    assert load(folder).tokenizer("a b c d").input_ids == word_tokenizer(TEXTS)("a b c d").input_ids


def test_every_parameter_trains_in_float32(folder: Path) -> None:
    assert all(
        parameter.requires_grad and parameter.dtype == torch.float32
        for parameter in load(folder).network.parameters()
    )


def test_bfloat16_computation_keeps_float32_parameters(folder: Path) -> None:
    assert {parameter.dtype for parameter in load(folder, dtype="bfloat16").network.parameters()} == {
        torch.float32
    }


def test_bfloat16_computation_is_in_bfloat16(folder: Path) -> None:
    assert logits(load(folder, dtype="bfloat16")).dtype == torch.bfloat16


def test_bfloat16_computation_gives_float32_gradients(folder: Path) -> None:
    assert {gradient.dtype for gradient in gradients(load(folder, dtype="bfloat16")).values()} == {
        torch.float32
    }


def test_bfloat16_logprobs_are_near_the_float32_ones(folder: Path) -> None:
    torch.testing.assert_close(
        logprobs(load(folder, dtype="bfloat16")), logprobs(load(folder)), rtol=0.05, atol=0.05
    )


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    before = moved_on()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("float32", "cuda", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_the_compute_dtype_is_the_named_one_or_the_devices(name: Any, device: str, dtype: str) -> None:
    assert compute_dtype(name, torch.device(device)) == getattr(torch, dtype)


def test_every_eos_id_of_the_generation_config_ends_a_completion(damaged: Path) -> None:
    settings = json.loads((damaged / "generation_config.json").read_text())
    (damaged / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [5, 7]}))
    assert {5, 7} <= load(damaged).eos_ids


def test_the_eos_ids_of_config_and_tokenizer_end_a_completion_too(damaged: Path) -> None:
    settings = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(settings | {"eos_token_id": 9}))
    (damaged / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    assert load(damaged).eos_ids == {1, 5, 7, 9}


def test_pads_are_the_tokenizers(folder: Path) -> None:
    assert load(folder).pad_id == 0


def test_without_a_pad_token_an_eos_id_pads() -> None:
    tokenizer = word_tokenizer(TEXTS)
    tokenizer.pad_token = None
    assert finish(build(), tokenizer, dtype=torch.float32, device=CPU, checkpointing=False).pad_id == 1


def test_a_model_that_can_never_end_is_refused() -> None:
    network, tokenizer = build(eos_token_id=None), word_tokenizer(TEXTS)
    network.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(
        ValueError, match=r"model\.path: neither the model nor its tokenizer names an end-of-sequence token"
    ):
        finish(network, tokenizer, dtype=torch.float32, device=CPU, checkpointing=False)


def test_a_fresh_adapter_is_the_identity(folder: Path) -> None:
    assert torch.equal(logits(load(folder, lora=LORA)), logits(load(folder)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_adapter_trains_and_in_float32(folder: Path, dtype: str) -> None:
    trained = {
        name: p.dtype
        for name, p in load(folder, lora=LORA, dtype=dtype).network.named_parameters()
        if p.requires_grad
    }
    assert len(trained) == 2 * 3 * TINY["num_hidden_layers"]
    assert all("lora_" in name and dtype == torch.float32 for name, dtype in trained.items())


def test_the_base_of_an_adapter_is_held_in_the_compute_dtype(folder: Path) -> None:
    assert {
        p.dtype for p in load(folder, lora=LORA, dtype="bfloat16").network.parameters() if not p.requires_grad
    } == {torch.bfloat16}


def test_training_an_adapter_moves_the_policy(folder: Path) -> None:
    model = load(folder, lora=LORA)
    train_step(model)
    assert float((logits(model) - logits(load(folder))).abs().max()) > 0.01


def test_an_adapters_folder_loads_as_its_base_with_the_adapter_added(folder: Path, tmp_path: Path) -> None:
    trained = load(folder, lora=LORA)
    train_step(trained)
    trained.network.save_pretrained(tmp_path)
    trained.tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path)
    torch.testing.assert_close(logits(model), logits(trained), rtol=1e-5, atol=1e-5)
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    assert "the adapter alone" in policy_line(tmp_path) and str(folder) in policy_line(tmp_path)
    assert policy_line(folder) == str(folder)


def test_with_the_adapter_off_a_trained_policy_is_the_start_model(folder: Path) -> None:
    model = load(folder, lora=LORA)
    for _ in range(2):
        train_step(model)
    assert torch.equal(logits(reference(model)), logits(load(folder)))
    assert torch.equal(logprobs(reference(model)), logprobs(load(folder)))


def test_reading_the_reference_leaves_the_adapter_on(folder: Path) -> None:
    model = load(folder, lora=LORA)
    train_step(model)
    before = logits(model)
    logits(reference(model))
    assert torch.equal(logits(model), before)


def test_the_adapters_draw_is_a_function_of_the_seed(folder: Path) -> None:
    def drawn(seed: int) -> Tensor:
        return torch.cat(
            [
                p.detach().flatten()
                for name, p in load(folder, seed, lora=LORA).network.named_parameters()
                if "lora_A" in name
            ]
        )

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_an_adapter_draws_nothing_from_the_global_generator(folder: Path) -> None:
    before = moved_on()
    load(folder, lora=LORA)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapting_the_head_or_the_embeddings_is_refused(folder: Path, target: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.lora\.targets=.*{target}.*leave them out"):
        load(folder, lora=replace(LORA, targets=["q_proj", target]))


def test_checkpointing_recomputes_the_layers(folder: Path) -> None:
    assert layer_calls(load(folder)) == 1
    assert layer_calls(load(folder, gradient_checkpointing=True)) == 2


def test_checkpointing_recomputes_the_layers_under_an_adapter(folder: Path) -> None:
    assert layer_calls(load(folder, gradient_checkpointing=True, lora=LORA)) == 2


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_checkpointing_gives_the_same_gradient(folder: Path, lora: Lora | None) -> None:
    with_it, without = (gradients(load(folder, gradient_checkpointing=on, lora=lora)) for on in (True, False))
    assert any(bool(gradient.any()) for gradient in without.values())
    torch.testing.assert_close(with_it, without, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_starts_as_the_policy_to_the_bit(folder: Path, dtype: str, lora: Lora | None) -> None:
    model = load(folder, dtype=dtype, lora=lora)
    assert torch.equal(logprobs(reference(model)), logprobs(model))


def test_the_reference_does_not_follow_training(folder: Path) -> None:
    model = load(folder)
    frozen = reference(model)
    train_step(model)
    assert torch.equal(logits(frozen), logits(load(folder)))
    assert not torch.equal(logits(model), logits(frozen))


def test_the_reference_does_not_train(folder: Path) -> None:
    assert not any(parameter.requires_grad for parameter in reference(load(folder)).network.parameters())


def test_making_the_reference_leaves_the_policy_trainable(folder: Path) -> None:
    model = load(folder)
    reference(model)
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_the_reference_is_in_eval_mode(folder: Path) -> None:
    model = load(folder)
    model.network.train()
    assert not reference(model).network.training
    assert model.network.training


def test_an_adapted_policy_shares_its_network_with_the_reference(folder: Path) -> None:
    model = load(folder, lora=LORA)
    assert reference(model).network is model.network


ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen3": ("sdpa", {}),
    "qwen2": ("sdpa", {}),
    "llama": ("sdpa", {}),
    "gemma2": ("eager", {"final_logit_softcapping": 2.0}),
    "granite": ("sdpa", {"logits_scaling": 4.0}),
    "cohere": ("sdpa", {"logit_scale": 0.3}),
    "phi": ("sdpa", {}),  # a head with a bias
}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_our_head_is_the_architectures_own(model_type: str) -> None:
    attention, settings = ARCHITECTURES[model_type]
    network = build(model_type, attention, **settings)
    model = finish(network, word_tokenizer(TEXTS), dtype=torch.float32, device=CPU, checkpointing=False)
    theirs = torch.log_softmax(logits(model), dim=-1).gather(2, IDS.roll(-1, dims=1)[:, :, None]).squeeze(2)
    ours = logprobs(model).detach()
    torch.testing.assert_close(ours[0, :4], theirs[0, 1:5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1, :2], theirs[1, 3:5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "key", "neutral"),
    [
        ("gemma2", "final_logit_softcapping", None),
        ("granite", "logits_scaling", 1.0),
        ("cohere", "logit_scale", 1.0),
    ],
)
def test_a_transform_that_is_left_out_is_caught(
    model_type: str, key: str, neutral: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, settings = ARCHITECTURES[model_type]
    network = build(model_type, attention, **settings)
    right = LanguageModel.head

    def forgetful(self: LanguageModel, temperature: float) -> Any:
        head = right(self, temperature)
        return (
            replace(head, softcap=None) if key == "final_logit_softcapping" else replace(head, scale=neutral)
        )

    monkeypatch.setattr(LanguageModel, "head", forgetful)
    with pytest.raises(
        ValueError, match=r"transforms its logits in a way mirrorpo\.model\.head\.Head does not"
    ):
        finish(network, word_tokenizer(TEXTS), dtype=torch.float32, device=CPU, checkpointing=False)


TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda x: 1.5 * x,
    "shifted": lambda x: x + torch.arange(x.shape[-1]) / x.shape[-1],
    "capped": lambda x: 5 * torch.tanh(x / 5),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_unknown_transform_of_the_logits_is_refused_naming_the_architecture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    plain = Qwen3ForCausalLM.forward

    def transformed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        output.logits = TRANSFORMS[name](output.logits)
        return output

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", transformed)
    with pytest.raises(
        ValueError, match=r"model\.path: Qwen3ForCausalLM transforms its logits.*add the transform there"
    ):
        load(folder, dtype=dtype)


def test_the_heads_check_restores_the_networks_mode(folder: Path) -> None:
    model = load(folder)
    model.network.train()
    model.check_head()
    assert model.network.training


def scratch(seed: int = 0, texts: Iterable[str] = TEXTS) -> LanguageModel:
    spec = Scratch(
        architecture={"model_type": "qwen3", **TINY, "tie_word_embeddings": True},
        prompt=PlainPrompt(instruct=False),
    )
    return spec.load(CPU, seed, lambda: texts)


def state(model: LanguageModel) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


def test_a_scratch_model_is_a_function_of_the_seed() -> None:
    assert torch.equal(state(scratch(0)), state(scratch(0)))
    assert not torch.equal(state(scratch(0)), state(scratch(1)))


def test_a_scratch_model_does_not_read_the_global_generator() -> None:
    first = state(scratch(0))
    torch.rand(3)
    assert torch.equal(state(scratch(0)), first)


def test_a_scratch_model_leaves_the_global_generator_untouched() -> None:
    before = moved_on()
    scratch(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_scratch_models_vocabulary_is_its_tokenizers() -> None:
    model = scratch(texts=["Sam has 18 toys"])
    assert model.network.get_input_embeddings().num_embeddings == len(model.tokenizer)


def test_a_scratch_model_knows_its_special_ids() -> None:
    model = scratch()
    assert (model.pad_id, model.eos_ids) == (0, {1})


def test_a_saved_scratch_model_loads_as_pretrained(tmp_path: Path) -> None:
    model = scratch()
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(model))


SAYS_WHAT_TO_DO = r"Set model\.path to a folder with config\.json"


def refused(path: str | Path) -> str:
    with pytest.raises(ValueError, match=SAYS_WHAT_TO_DO) as caught:
        load(path)
    return str(caught.value)


def test_a_missing_folder_is_refused_naming_model_path_and_the_fix(tmp_path: Path) -> None:
    for path in (f"{tmp_path}/nowhere", "./nowhere", "outputs/sweep/cell/policy"):
        error = refused(path)
        assert error.startswith(f"model.path={path}: cannot be loaded")
        assert "There is no such folder" in error and "hf download" not in error


def test_a_hub_name_without_network_is_refused_naming_model_path_and_the_fix() -> None:
    error = refused("mirrorpo-tests/no-such-model")
    assert error.startswith("model.path=mirrorpo-tests/no-such-model: cannot be loaded")
    assert "`hf download mirrorpo-tests/no-such-model`" in error and "HF_HOME" in error


def test_a_shipped_model_that_does_not_exist_is_refused_by_its_own_name() -> None:
    assert refused("mirrorpo:nothing").startswith("model.path=mirrorpo:nothing: cannot be loaded")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_without_a_part_is_refused(damaged: Path, lost: str) -> None:
    (damaged / lost).unlink()
    refused(damaged)


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2", "cohere"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, model_type: str) -> None:
    build(model_type, "eager").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.path=.*tokenizer"):
        load(tmp_path, attention="eager")


def test_a_cut_file_of_weights_is_refused(damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:100])
    refused(damaged)


def test_a_checkpoint_that_lacks_weights_is_refused(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.path"):
        load(damaged)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("config.json", {"AutoModelForCausalLM": "code.Code"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "code.Code"]}),
    ],
)
def test_code_beside_the_weights_is_not_run(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, names: Mapping[str, Any]
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (damaged / "code.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\n")
    settings = json.loads((damaged / file).read_text())
    (damaged / file).write_text(json.dumps(settings | {"auto_map": names}))
    load(damaged)
    assert not (tmp_path / "it_ran").exists()


def test_an_attention_that_the_architecture_lacks_is_refused_naming_model_attention(tmp_path: Path) -> None:
    build("gemma2", "eager").save_pretrained(tmp_path)
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.attention=sdpa: Gemma2ForCausalLM does not support"):
        load(tmp_path)


# In a process of its own, because the hub's library reads the environment when it is imported.
HUB = """
import torch
from mirrorpo.model.load import Pretrained
from mirrorpo.model.prompt import PlainPrompt

for path in ("someone/cached", "someone/missing"):
    try:
        spec = Pretrained(
            path=path, prompt=PlainPrompt(instruct=False), revision=None, dtype="float32", attention="sdpa",
            lora=None, gradient_checkpointing=False,
        )
        model = spec.load(torch.device("cpu"), 0, lambda: [])
        print("loaded", path, sorted(model.eos_ids))
    except ValueError as error:
        print("refused", error)
"""


@pytest.fixture(scope="module")
def offline(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a process without network says of a name in the hub's cache and of one that is not there."""
    home = tmp_path_factory.mktemp("hub")
    repository = home / "hub/models--someone--cached"
    shutil.copytree(folder, repository / "snapshots/abc123")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc123")
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_hub_name_in_the_cache_of_hf_home_loads_without_network(offline: str) -> None:
    assert "loaded someone/cached [1]" in offline


def test_a_hub_name_outside_the_cache_is_refused_without_network(offline: str) -> None:
    assert "refused model.path=someone/missing: cannot be loaded" in offline


def test_the_model_that_ships_reads_its_dataset() -> None:
    tokenizer = load("mirrorpo:tiny").tokenizer
    text = "Sam has 18 apples. Sam buys 3 more.\nSam has 18 + 3 = <<18+3=21>>21 apples.\n#### 21"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_weights_that_the_architecture_has_no_place_for_are_refused(damaged: Path) -> None:
    settings = json.loads((damaged / "config.json").read_text())
    other = settings | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (damaged / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"model\.path=.*: LlamaForCausalLM has no place for .*k_norm"):
        load(damaged)


def test_a_pad_token_outside_the_embeddings_gives_way_to_an_end_with_a_note() -> None:
    tokenizer = word_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    model = finish(build(), tokenizer, dtype=torch.float32, device=CPU, checkpointing=False)
    assert tokenizer.pad_token_id == build().config.vocab_size and model.pad_id == 1
    assert any("pad token" in note and "outside" in note for note in model.notes)


def test_ends_outside_the_embeddings_are_refused() -> None:
    network, tokenizer = build(eos_token_id=999), word_tokenizer(TEXTS)
    network.generation_config.eos_token_id = 999
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"named: \[999\].*completions could never end"):
        finish(network, tokenizer, dtype=torch.float32, device=CPU, checkpointing=False)


def test_a_package_that_is_missing_is_not_blamed_on_the_attention(damaged: Path) -> None:
    settings = json.loads((damaged / "config.json").read_text())
    quantised = settings | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (damaged / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(ValueError, match=r"model\.path=.*quantised weights cannot be trained"):
        load(damaged)


def test_a_missing_attention_is_blamed_on_the_attention(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^model\.attention=flash_attention_2: "):
        load(folder, attention="flash_attention_2")


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_follow_the_longest_row_are_refused_beyond_their_original_length(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    network = build("llama", rope_parameters=rope)
    model = finish(network, word_tokenizer(TEXTS), dtype=torch.float32, device=CPU, checkpointing=False)
    model.check_context(16)
    with pytest.raises(
        ValueError, match=rf"max_new_tokens: .* 17 tokens; beyond 16 this model's {kind} positions"
    ):
        model.check_context(17)


def test_a_token_that_the_model_rules_out_is_no_fault() -> None:
    network = build("phi")
    with torch.no_grad():
        network.lm_head.bias[9] = -float("inf")
    model = finish(network, word_tokenizer(TEXTS), dtype=torch.float32, device=CPU, checkpointing=False)
    outputs, _ = read_completions(model, batch(), temperature=1.0, logit_chunk=3)
    assert outputs.entropy.isfinite().all() and (outputs.entropy > 0).all()
