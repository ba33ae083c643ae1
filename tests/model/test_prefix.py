"""Prompts computed once against full rows, without a cache: value, gradient, what is computed and what is
refused.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from small_models import model, rollout
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.model.forward import completion_hidden, per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, with_adapter
from mirrorpo.model.modes import evaluating
from mirrorpo.model.prefix import obstacle, shared_hidden

NETWORKS = pytest.mark.parametrize(
    ("kind", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("qwen3", "sdpa"), ("gpt2", "sdpa")]
)
PIECES = pytest.mark.parametrize("rows_per_forward", [(8,), (3, 5), (1,) * 8])


def exact(kind: str, attention: str = "sdpa") -> LanguageModel:
    """A network of its own, in training mode without dropout; in float64, but for eager attention, whose
    softmax of a fully masked row is NaN there.
    """
    shared = model(kind, attention)
    network = (
        copy.deepcopy(shared.network).to(torch.float32 if attention == "eager" else torch.float64).train()
    )
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return replace(shared, network=network)


def falling() -> RolloutBatch:
    """Prompts of three lengths, each used several times, in falling length of the completions, so that
    groups are interleaved.
    """
    batch = rollout()
    return batch.rows(batch.present.sum(dim=1).argsort(descending=True, stable=True))


def gradients(lm: LanguageModel, batch: RolloutBatch, rows_per_forward: Sequence[int]) -> list[Tensor]:
    factors = torch.linspace(-1, 1, int(batch.present.sum()))
    head_outputs, _ = read_completions(
        lm, batch, temperature=0.7, logit_chunk=5, rows_per_forward=rows_per_forward
    )
    trained = [parameter for parameter in lm.network.parameters() if parameter.requires_grad]
    return [
        head_outputs.logprobs.detach(),
        *torch.autograd.grad((head_outputs.logprobs * factors).sum(), trained),
    ]


def assert_close(ours: Sequence[Tensor], unshared: Sequence[Tensor]) -> None:
    # Norms of `transformers` round to float32 on the way: single entries are looser than all together.
    ours, unshared = (torch.cat([part.flatten() for part in parts]) for parts in (ours, unshared))
    assert float((ours - unshared).norm()) < (1e-6 if unshared.dtype == torch.float64 else 1e-5) * float(
        unshared.norm()
    )


@PIECES
@NETWORKS
def test_log_probabilities_and_every_gradient_are_those_of_full_rows(
    kind: str, attention: str, rows_per_forward: Sequence[int]
) -> None:
    lm, batch = exact(kind, attention), falling()
    unshared = gradients(lm, batch, ())
    assert min(float(part.abs().max()) for part in unshared[:3]) > 1e-3
    assert_close(gradients(lm, batch, rows_per_forward), unshared)


def test_the_prompts_own_tokens_get_their_gradient() -> None:
    lm, batch = exact("llama"), falling()
    # An id that stands in a prompt alone.
    token = next(
        token
        for token in batch.prompt_ids[batch.prompt_present].tolist()
        if token not in batch.completion_ids
    )
    embedding = lm.causal_lm.get_input_embeddings().weight
    shared_hidden(lm, batch, (8,))[batch.present].square().sum().backward()
    assert bool(embedding.grad[token].any())


@PIECES
def test_without_gradient_the_states_are_those_of_full_rows(rows_per_forward: Sequence[int]) -> None:
    lm, batch = exact("qwen3"), falling()
    with torch.no_grad(), evaluating(lm.network):
        shared, unshared = shared_hidden(lm, batch, rows_per_forward), completion_hidden(lm, batch)
    torch.testing.assert_close(shared[batch.present], unshared[batch.present], rtol=1e-9, atol=1e-9)
    assert not shared.requires_grad


def test_under_an_adapter_gradient_and_reference_are_those_of_full_rows() -> None:
    base = exact("llama")
    lm = with_adapter(base, Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"]), seed=0)
    lm = replace(lm, network=lm.network.double())
    with torch.no_grad():
        for name, parameter in lm.network.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    batch = falling()
    assert_close(gradients(lm, batch, (3, 5)), gradients(lm, batch, ()))
    reference = lm.without_adapter()
    with torch.no_grad(), evaluating(lm.network):
        shared, unshared, live = (
            shared_hidden(reference, batch, (8,)),
            completion_hidden(reference, batch),
            completion_hidden(lm, batch),
        )
    torch.testing.assert_close(shared[batch.present], unshared[batch.present], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(live[batch.present], unshared[batch.present])


def test_in_bfloat16_it_is_as_near_to_float32_as_full_rows_are() -> None:
    full, batch = model("qwen3"), falling()
    half = replace(full, dtype=torch.bfloat16)

    def logprobs(lm: LanguageModel, rows_per_forward: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return per_token(
                read_completions(
                    lm, batch, temperature=1.0, logit_chunk=64, rows_per_forward=rows_per_forward
                )[0].logprobs,
                batch,
            )

    exactly = logprobs(full, ())
    plain, shared = (
        (logprobs(half, rows_per_forward) - exactly).abs().mean() for rows_per_forward in ((), (8,))
    )
    assert 0 < float(shared) < 1.5 * float(plain)


def test_each_prompt_and_each_run_goes_through_the_network_once() -> None:
    lm, batch, seen = exact("llama"), falling(), []
    handle = lm.causal_lm.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    shared_hidden(lm, batch, (3, 5))
    handle.remove()
    lengths = batch.present.sum(dim=1).tolist()
    assert seen == [(3, batch.prompt_ids.shape[1]), (3, lengths[0]), (5, lengths[3])]


def test_what_cannot_share_its_prompts_says_which_setting_keeps_it() -> None:
    assert [obstacle(model(kind)) for kind in ("llama", "qwen3", "gpt2")] == ["", "", ""]
    assert "does not keep" in obstacle(model("qwen3", windowed=True))
    lm = exact("llama")
    # Two names of one method, of transformers 5.24 and of 5.19.
    (
        getattr(lm.network, "activation_checkpointing_enable", None)
        or lm.network.gradient_checkpointing_enable
    )({"use_reentrant": False})
    assert "gradient_checkpointing" in obstacle(lm)
    lm = exact("llama")
    lm.network.config._attn_implementation = "flash_attention_2"
    assert "model.attention=flash_attention_2" in obstacle(lm)
