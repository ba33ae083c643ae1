"""Dropout and router jitter are off in what is loaded, and said to be."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.model.load import finish
from mirrorpo.model.words import word_tokenizer

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
MIXTRAL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "num_local_experts": 4, "router_jitter_noise": 0.3, "sliding_window": None,
}  # fmt: skip


def load(kind: str, settings: dict[str, Any], **noise: Any) -> Any:
    special = {"vocab_size": 40, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings, **special))
    device, tokenizer = torch.device("cpu"), word_tokenizer(["a b"])
    return finish(network, tokenizer, dtype=torch.float32, device=device, checkpointing=False, **noise)


def noise(model: Any) -> float:
    ids = torch.tensor([[5, 9, 4, 7]])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        one, other = model.network.train()(ids).logits, model.network.eval()(ids).logits
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("gpt2", GPT2, "attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1"),
        ("mixtral", MIXTRAL, "router_jitter_noise=0.3"),
    ],
)
def test_train_mode_is_eval_mode_and_the_note_names_what_was_on(kind: str, settings: Any, named: str) -> None:
    model = load(kind, settings)
    assert noise(model) == 0.0
    assert any(named in note and "model.train_noise=own" in note for note in model.notes)


def test_the_switch_leaves_it_on_without_a_note() -> None:
    model = load("gpt2", GPT2, train_noise="own")
    assert noise(model) > 0.01 and not model.notes


def test_a_model_without_noise_is_left_as_it_is() -> None:
    model = load("gpt2", GPT2 | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0})
    assert noise(model) == 0.0 and not model.notes
    # Of a head that no causal LM has.
    assert model.network.config.summary_first_dropout == 0.1
