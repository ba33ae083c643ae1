"""A frozen model's matrices in the compute dtype: half of the memory, and not a bit of what it reads."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import SMALL, VOCABULARY, model, model_of, network_of, rollout
from torch.nn import Linear
from torch.nn.functional import linear

from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.model.stored import store_as_computed

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OTHERS: Mapping[str, dict[str, Any]] = {
    "qwen3": {**SMALL, "head_dim": 8, "tie_word_embeddings": True},
    "qwen2": SMALL,
    "gemma3_text": {**SMALL, "head_dim": 8},
    "qwen3_moe": {**SMALL, **EXPERTS, "head_dim": 8},
    "olmo2": SMALL,
}


def in_bfloat16(lm: LanguageModel) -> LanguageModel:
    return replace(lm, network=copy.deepcopy(lm.network), dtype=torch.bfloat16)


def read(lm: LanguageModel, rows_per_forward: tuple[int, ...] = ()) -> list[torch.Tensor]:
    batch = rollout()
    with torch.no_grad():
        outputs, hidden = read_completions(
            lm, batch, temperature=0.7, logit_chunk=16, rows_per_forward=rows_per_forward
        )
    return [outputs.logprobs, outputs.entropy, hidden[batch.present]]


def test_what_the_reference_reads_is_the_same_to_the_bit_and_its_matrices_take_half() -> None:
    models = {kind: model(kind) for kind in ("llama", "gpt2")} | {
        kind: model_of(network_of(kind, vocab_size=VOCABULARY, **shape)) for kind, shape in OTHERS.items()
    }
    for kind, lm in models.items():
        policy = in_bfloat16(lm)
        start = reference(policy)
        for rows_per_forward in ((), (4, 4)):
            for ours, theirs in zip(
                read(start, rows_per_forward), read(policy, rows_per_forward), strict=True
            ):
                assert torch.equal(ours, theirs), (kind, rows_per_forward)
        head = start.causal_lm.get_output_embeddings()
        narrow = {
            name
            for name, module in start.network.named_modules()
            for parameter in module.parameters(recurse=False)
            if parameter.dtype == torch.bfloat16
        }
        projections = {
            name
            for name, module in start.network.named_modules()
            if type(module) is Linear and module is not head
        }
        # GPT-2's projections are no `Linear`; a head, embeddings and norms are read in float32.
        assert narrow == projections and bool(narrow) == (kind != "gpt2"), kind
        assert {parameter.dtype for parameter in policy.network.parameters()} == {torch.float32}, kind
        assert not any(parameter.requires_grad for parameter in start.network.parameters()), kind


def test_in_float32_and_where_a_network_reads_a_matrix_its_own_way_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = reference(model("llama"))
    assert {parameter.dtype for parameter in start.network.parameters()} == {torch.float32}
    strange = in_bfloat16(model("llama"))

    def wide(self: Linear, values: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return linear(values.float(), self.weight.float())

    monkeypatch.setattr(Linear, "forward", wide)
    before = read(strange)
    store_as_computed(strange)
    assert {parameter.dtype for parameter in strange.network.parameters()} == {torch.float32}
    assert all(torch.equal(was, now) for was, now in zip(before, read(strange), strict=True))
