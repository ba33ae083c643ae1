"""The sum of what a run holds: against what torch keeps, exact where it can be, and what it refuses."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from cli import composed
from completions import completion_of
from small_models import model_of, network_of
from transformers import AutoConfig

from mirrorpo.config.schema import resolved
from mirrorpo.core.batch import Prompt, RolloutBatch
from mirrorpo.core.protocols import EngineMemory
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel, recomputes
from mirrorpo.model.lora import Lora
from mirrorpo.model.prefix import shared_hidden
from mirrorpo.model.sizes import ModelSizes, adapter_size, shape_of
from mirrorpo.optim.adamw import AdamW
from mirrorpo.optim.muon import Muon
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.memory_check import checked_memory
from mirrorpo.train.memory_check import load_of as load_of_run
from mirrorpo.train.memory_plan import (
    GIB,
    Load,
    casts,
    cures,
    fitting,
    parts,
    peak,
    refusal,
    saved,
    totals,
)
from mirrorpo.train.questions import Questions

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
        logit_chunk=8,
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


# A whole run, on a card that is not here


CARD = 80 * 10**9
QUESTION = Prompt(uid="", question="x" * 985, gold="", demonstration="")
QUESTIONS = Questions(train=[QUESTION], evaluation=[QUESTION], left_out={}, content={})
QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
SHAPES = {
    "qwen": QWEN3
    | {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 6144},
    "qwen3_4b": QWEN3
    | {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
}
PARAMETERS = {"qwen": 1_720_574_976, "qwen3_4b": 4_022_468_096}


@dataclass(frozen=True, slots=True)
class Planned:
    """Commands, as parts and as what they would hold."""

    components: Callable[..., Components]
    load: Callable[..., Load]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """What a command would hold, on questions as long as GSM8K's longest."""

    @cache
    def components_of(name: str, *overrides: str) -> Components:
        folder = tmp_path_factory.mktemp(name)
        # The published config and nothing else.
        AutoConfig.for_model("qwen3", **SHAPES[name]).save_pretrained(folder)
        with composed(f"model={name}", f"model.path={folder}", *overrides) as (cfg, _):
            return build_components(resolved(cfg))

    @cache
    def of(name: str, *overrides: str, processes: int = 1) -> Load:
        load = load_of_run(components_of(name, *overrides), QUESTIONS, torch.device("cuda"), CARD, processes)
        assert load is not None
        return load

    return Planned(components=components_of, load=of)


def test_parameters_are_those_of_the_published_models(planned: Planned) -> None:
    for name in SHAPES:
        assert planned.load(name).model.shape.parameters == PARAMETERS[name]


@pytest.mark.parametrize("divergence", ["probl2", "kl"])
def test_the_papers_command_runs_on_one_card_of_80_gb(planned: Planned, divergence: str) -> None:
    load = planned.load("qwen", "algo=grpo", f"divergence={divergence}")
    assert load.tokens == 8192 and not load.model.checkpointing and load.reference
    assert refusal(load, CARD, cures(load)) == ""


def test_vllm_has_to_sleep_beside_activations_that_are_kept(planned: Planned) -> None:
    load = planned.load("qwen", "rollout=vllm")
    message = refusal(load, CARD, cures(load))
    assert message.startswith("device=cuda: the run would hold ") and "\n" not in message
    assert "it fits with rollout.sleep=true (" in message and "model.gradient_checkpointing=true (" in message
    assert refusal(planned.load("qwen", "rollout=vllm", "rollout.sleep=true"), CARD, []) == ""
    both = planned.load("qwen", "rollout=vllm", "rollout@eval_rollout=vllm")
    assert "rollout.sleep=true eval_rollout.sleep=true (" in refusal(both, CARD, cures(both))
    assert both.engine.between == round(0.3 * CARD)


def test_all_of_4b_does_not_fit_and_adapters_do(planned: Planned) -> None:
    load = planned.load("qwen3_4b")
    assert re.search(r"; it fits with lora@model\.lora=r16 \([\d.]+ GiB\)$", refusal(load, CARD, cures(load)))
    assert refusal(planned.load("qwen3_4b", "lora@model.lora=r16"), CARD, []) == ""


def test_what_is_advised_is_what_was_computed(planned: Planned) -> None:
    load = planned.load("qwen", "rollout=vllm")
    for settings, size in fitting(load, CARD, cures(load)):
        if "lora" not in settings[0]:
            assert peak(planned.load("qwen", "rollout=vllm", *settings)) == size
    tight = 40 * 10**9
    smallest = [settings for settings, _ in fitting(load, tight, cures(load))]
    assert smallest and all(refusal(load, tight, cures(load)).count(" ".join(way)) for way in smallest)
    assert "more devices" in refusal(load, 10**9, cures(load))


def test_an_evaluation_holds_no_gradients_and_several_processes_a_share(planned: Planned) -> None:
    names = {part.name for part in parts(planned.load("qwen", "steps=0"))}
    assert not names & {"gradients", "optimiser", "activations"} and "weights" in names
    alone, four = planned.load("qwen"), planned.load("qwen", processes=4)
    assert totals(four)["update"] < totals(alone)["update"] - 10 * GIB


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


def test_adapters_are_counted_as_peft_makes_them() -> None:
    network = network_of("qwen3", **SETTINGS)
    expected = adapter_size(network, 4, None)
    shape = shape_of(network)
    everything = ModelSizes(
        shape=shape, rank=0, adapters=0, dropout=False, compute=4, checkpointing=False
    ).with_adapters(rank=4, dropout=False)
    few = adapter_size(network, 4, ["q_proj", "down_proj"])
    model = with_adapter(model_of(network), Lora(rank=4, alpha=8, dropout=0.0, targets=None), 0)
    made = {name: p.numel() for name, p in model.network.named_parameters() if "lora" in name}
    assert sum(made.values()) == expected == everything.trained
    chosen = ("q_proj", "down_proj")
    assert few == sum(count for name, count in made.items() if any(target in name for target in chosen))


def test_a_card_refuses_before_a_model_is_loaded_and_a_cpu_never(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = planned.components("qwen3_4b")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (CARD, CARD))
    with pytest.raises(ValueError, match="device=cuda: the run would hold"):
        checked_memory(components, QUESTIONS, torch.device("cuda"), 1)
    assert checked_memory(components, QUESTIONS, torch.device("cpu"), 1) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * CARD, 2 * CARD))
    memory = checked_memory(components, QUESTIONS, torch.device("cuda"), 1)
    assert memory is not None and memory.note.startswith("memory: ")
    assert set(memory.table) == {"card_gib", "usable_gib", "phases_gib", "parts_gib"}
