"""A decoder's step without its modules: the same bits, and only of a decoder that gives the same bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import native, sample, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, reference, with_adapter
from mirrorpo.rollout import native as engine
from mirrorpo.rollout.plain_step import PlainStep

# peft 0.21 asks for a property that transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# Rows are dropped at every look that sees an end, after which the cache grows.
DROPPING = {"compact_at": 1e-6, "cache_block": 3}
BIASED = {"attention_bias": True, "mlp_bias": True}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SCALED = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}


def plain_step(model: LanguageModel) -> PlainStep | None:
    with model.evaluating(), model.computing(), torch.inference_mode():
        return PlainStep.of(model)


def through_modules(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine.PlainStep, "of", lambda _model: None)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", BIASED),
        ("llama", {**GROUPED, **SCALED}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", GROUPED),
        ("qwen3", GROUPED),
    ],
    ids=["llama, biases", "llama, scaled positions", "mistral", "qwen2", "qwen3"],
)
def test_no_digit_of_a_completion_changes(
    kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(kind, **settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.network.parameters():
        # Biases and norms too, which begin as zeros and ones.
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    assert plain_step(model) is not None
    ours = sample(native(**DROPPING), model, group_size=8, with_greedy=True)
    through_modules(monkeypatch)
    assert sample(native(**DROPPING), model, group_size=8, with_greedy=True) == ours


def test_an_adapter_is_computed_by_its_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = Lora(rank=2, alpha=4, dropout=0.5, targets=["q_proj", "down_proj"])
    model = with_adapter(tiny(**GROUPED), lora, 0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    assert plain_step(model) is not None
    ours = [sample(native(**DROPPING), policy) for policy in (model, reference(model))]
    assert ours[0] != ours[1]
    through_modules(monkeypatch)
    assert [sample(native(**DROPPING), policy) for policy in (model, reference(model))] == ours


def another_norm(model: LanguageModel, patch: pytest.MonkeyPatch) -> LanguageModel:
    forward = Qwen3RMSNorm.forward
    patch.setattr(Qwen3RMSNorm, "forward", lambda self, states: forward(self, states) * (1 + 2**-20))
    return model


def hooked(model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    model.decoder.get_submodule("layers.0.mlp").register_forward_hook(lambda *_: None)
    return model


def replaced(model: LanguageModel, patch: pytest.MonkeyPatch) -> LanguageModel:
    mlp = model.decoder.get_submodule("layers.0.mlp")
    patch.setattr(mlp, "forward", lambda states: 0 * states)
    return model


def in_bfloat16(model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return replace(model, dtype=torch.bfloat16)


def of_another_kind(_model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return tiny("gpt2")


def eager(_model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return tiny(attention="eager")


def with_torch_norm(model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    norm = torch.nn.RMSNorm(model.network.config.hidden_size, eps=1e-6)
    model.decoder.get_submodule("layers.0").register_module("input_layernorm", norm)
    return model


def sliding(_model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return tiny("mistral", sliding_window=4)


def sliding_far(_model: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return tiny("mistral", sliding_window=64)


OTHERS = [
    another_norm,
    hooked,
    replaced,
    in_bfloat16,
    of_another_kind,
    eager,
    with_torch_norm,
    sliding,
    sliding_far,
]


@pytest.mark.parametrize("changed", OTHERS, ids=lambda changed: changed.__name__)
def test_a_decoder_that_computes_otherwise_keeps_its_modules(
    changed: Callable[[LanguageModel, pytest.MonkeyPatch], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain_step(changed(tiny(), monkeypatch)) is None


class Operations(TorchDispatchMode):
    """How many operations are called."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations_of_a_token(model: LanguageModel) -> float:
    counts = []
    for tokens in (5, 9):
        with Operations() as counted:
            sample(native(), replace(model, eos_ids=frozenset({999})), max_new_tokens=tokens)
        counts.append(counted.count)
    return (counts[1] - counts[0]) / 4


def test_a_token_takes_fewer_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    assert plain_step(model) is not None
    ours = operations_of_a_token(model)
    through_modules(monkeypatch)
    assert ours <= 0.75 * operations_of_a_token(model)
