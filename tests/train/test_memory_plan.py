"""The sum of what a run holds: against what torch keeps, exact where it can be, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from completions import completion_of
from small_models import model_of, network_of
from torch.profiler import ProfilerActivity, profile

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import EngineMemory
from mirrorpo.model import head as head_module
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.head import Head, read_positions
from mirrorpo.model.language_model import LanguageModel, recomputes
from mirrorpo.model.lora import Lora
from mirrorpo.model.prefix import shared_hidden
from mirrorpo.model.sizes import ModelSizes, shape_of
from mirrorpo.optim.adamw import AdamW
from mirrorpo.optim.muon import Muon
from mirrorpo.rollout.collate import collate
from mirrorpo.train.memory_plan import (
    Load,
    casts,
    logits,
    saved,
)

# Qwen3's proportions: an MLP of three widths, half as many heads of keys as of queries.
SETTINGS = {
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 384,
    "tie_word_embeddings": True,
}
PROMPT, COMPLETION, GROUPS, SIZE = 24, 40, 2, 4


def rollout() -> RolloutBatch:
    completions = [
        completion_of([5] * COMPLETION, group=group, prompt_ids=[7 + group] * PROMPT, uid=str(group))
        for group in range(GROUPS)
        for _ in range(SIZE)
    ]
    return collate(completions, [0.0] * len(completions), pad_id=0, mask_truncated=False)


def policy(kind: str, rank: int, dtype: torch.dtype, checkpointing: bool) -> LanguageModel:
    network = network_of(kind, dtype=dtype if rank else torch.float32, **SETTINGS)
    if checkpointing:
        enable = getattr(network, "activation_checkpointing_enable", None)
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    model = replace(model_of(network.train()), dtype=dtype)
    if rank:
        model = with_adapter(model, Lora(rank=rank, alpha=8, dropout=0.0, targets=None), 0)
        model.network.train()
    return model


def kept_bytes(model: LanguageModel, read_prompts_once: bool) -> int:
    """What autograd keeps of a pass: every storage once, weights not."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.network.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = rollout()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = (
            shared_hidden(model, batch, [len(batch)])
            if read_prompts_once
            else completion_hidden(model, batch)
        )
    assert hidden.requires_grad
    return sum(storages.values())


def load_of(model: LanguageModel, tokens: int, shared: bool, rank: int = 0) -> Load:
    network = model.causal_lm
    adapters = sum(p.numel() for name, p in model.network.named_parameters() if "lora" in name)
    shape = shape_of(network)
    # peft's own parameters are counted beside.
    sizes = ModelSizes(
        shape=replace(shape, parameters=shape.parameters - adapters),
        rank=rank,
        adapters=adapters,
        dropout=False,
        compute=model.dtype.itemsize,
        checkpointing=recomputes(network),
    )
    return Load(
        model=sizes,
        trains=True,
        reference=False,
        optimiser=0,
        tokens=tokens,
        prompt=PROMPT,
        completion=COMPLETION,
        shared=shared,
        anchored=0,
        logit_chunk=8,
        head=4,
        engine=EngineMemory(),
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("qwen3", torch.float32), ("qwen3", torch.bfloat16), ("llama", torch.bfloat16)],
    ids=["qwen3-float32", "qwen3-bfloat16", "llama-bfloat16"],
)
def test_what_a_pass_keeps_is_what_the_sum_says_within_15_percent(kind: str, dtype: torch.dtype) -> None:
    off: dict[str, float] = {}
    for rank, checkpointing, shared in (
        (0, False, False),
        (0, True, False),
        (0, False, True),
        (4, False, False),
        (4, True, False),
        (4, False, True),
    ):
        model = policy(kind, rank, dtype, checkpointing)
        prompts = GROUPS if shared else GROUPS * SIZE
        load = load_of(model, prompts * PROMPT + GROUPS * SIZE * COMPLETION, shared, rank)
        # Recomputed layers keep no copies of weights.
        said = saved(load) + (0 if checkpointing else casts(load))
        share = said / kept_bytes(model, shared)
        if not 0.85 < share < 1.15:
            off[f"rank={rank} checkpointing={checkpointing} shared={shared}"] = share
    assert not off


def test_states_of_optimisers_are_exact() -> None:
    network = network_of("qwen3", **SETTINGS)
    embedded = network.get_input_embeddings().weight.numel()
    matrices = sum(p.numel() for p in network.parameters() if p.ndim == 2) - embedded
    others = sum(p.numel() for p in network.parameters()) - matrices
    for spec in (
        AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.0),
        Muon(momentum=0.9, iterations=1, rest_factor=0.25),
    ):
        optimiser = spec.build(network)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step(1e-3)
        tensors = [
            tensor
            for part in optimiser.state_dict().values()
            for state in part["state"].values()
            for name, tensor in state.items()
            if name != "step"
        ]
        assert sum(tensor.nbytes for tensor in tensors) == spec.state_bytes(matrices, others)


def most_at_once(work: Callable[[], object]) -> int:
    """Bytes: the largest running sum of what is allocated."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def test_what_the_head_holds_is_what_the_sum_says_within_15_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 64 MiB, which are nothing on a card, may wait for the backward pass.
    monkeypatch.setattr(head_module, "KEPT", 0)
    vocabulary, width, chunk = 20_000, 64, 128
    tokens = torch.zeros(4 * chunk, dtype=torch.long)
    for frozen in (False, True):
        model = policy("qwen3", 4 if frozen else 0, torch.bfloat16, checkpointing=False)
        load = load_of(model, len(tokens), shared=False, rank=4 if frozen else 0)
        shape = replace(load.model.shape, vocabulary=vocabulary, width=width)
        load = replace(load, model=replace(load.model, shape=shape), logit_chunk=chunk)
        dtype = torch.bfloat16 if frozen else torch.float32
        projection = torch.nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(not frozen)
        projection.weight.grad = None if frozen else torch.zeros_like(projection.weight)
        head = Head(projection=projection, softcap=None, scale=1.0, temperature=1.0)
        hidden = torch.randn(len(tokens), width, requires_grad=True)
        most = most_at_once(
            lambda head=head, hidden=hidden: (
                read_positions(head, hidden, tokens, logit_chunk=chunk).logprobs.sum().backward()
            )
        )
        assert 0.85 < logits(load) / most < 1.15, frozen
