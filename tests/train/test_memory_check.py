"""Whether a run fits on a card that is not here, and what is said where it does not."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from cli import composed
from transformers import AutoConfig

from mirrorpo.config.schema import resolved
from mirrorpo.core.batch import Prompt
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.memory_check import checked_memory, load_of
from mirrorpo.train.memory_plan import GIB, Load, cures, fitting, parts, peak, refusal, totals
from mirrorpo.train.questions import Questions

# What a card that is sold as 80 GB has.
CARD = 79 * GIB
QUESTION = Prompt(uid="", question="x" * 985, gold="", demonstration="")
QUESTIONS = Questions(train=[QUESTION], evaluation=[QUESTION], left_out={}, content={})
QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
SHAPES = {
    "qwen": QWEN3
    | {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 6144},
    "qwen3_4b": QWEN3
    | {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
}
LEAVING = ("updates_per_rollout=2",)
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
        load = load_of(components_of(name, *overrides), QUESTIONS, torch.device("cuda"), CARD, processes)
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
    exact = {part.name: part.size for part in parts(planned.load("qwen", "divergence=kl_exact"))}
    assert exact["states of the anchor"] == 8 * 4 * 256 * 2048 * 2
    # A mixture keeps the states of both parts; an average is another copy, in the policy's own dtype.
    mixed = planned.load("qwen", "divergence=kl_exact", "anchor=mixture", "trust_region=tv", *LEAVING)
    held = {part.name: part.size for part in parts(mixed)}
    assert held["states of the anchor"] == 2 * exact["states of the anchor"]
    assert held["anchors that move"] == 4 * PARAMETERS["qwen"] and held["reference"] == exact["reference"]
    assert "tokens of the old policy" not in held
    tops = planned.load("qwen", "anchor=ema", "trust_region=tv", "trust_region.over=top", *LEAVING)
    held = {part.name: part.size for part in parts(tops)}
    assert held["tokens of the old policy"] == 8 * 4 * 256 * 64 * 12 and "reference" not in held
    alone, four = planned.load("qwen"), planned.load("qwen", processes=4)
    assert totals(four)["update"] < totals(alone)["update"] - 10 * GIB


def test_rolls_are_sampled_beside_what_was_read_and_for_twice_as_long(planned: Planned) -> None:
    arm = ("divergence=kl_exact", "eval_questions=8", "eval_sampled_questions=0")
    plain = planned.load("qwen", *arm)
    rolled = planned.load("qwen", *arm, "weighting=segment_rollout_drop", "weighting.budget=7")
    # Four rolls of each of 32 completions; keys and values of 28 layers, and 64 places to spare.
    of_token, logits = 28 * 2 * 8 * 128 * plain.model.compute, 16 * 151936
    tokens = plain.prompt + 2 * plain.completion - 1 + 64
    assert rolled.engine.sampling == 128 * (tokens * of_token + logits) > 4 * plain.engine.sampling
    states = plain.anchored * 2048 * plain.model.compute
    more = rolled.engine.sampling - plain.engine.sampling + states
    assert totals(rolled)["sampling"] == totals(plain)["sampling"] + more
    assert totals(rolled)["update"] == totals(plain)["update"]


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
