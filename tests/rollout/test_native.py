"""The contract of a rollout engine, as a suite that every engine joins, and what `Native` promises beyond it.

To join, add the engine to `ENGINES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.core.batch import Completion, Prompt
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, finish, reference, with_adapter
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native

ENGINES: Mapping[str, Callable[[], RolloutEngine]] = {
    "native": lambda: Native(rows_at_once=64, compact_at=0.3, top_p=1.0),
}

# peft 0.21 asks for a property that transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RAGGED = [[5, 6, 7, 8, 9], [4], [11, 3, 8], [7, 7]]
LENGTH = 12


def tiny(model_type: str = "qwen3", attention: str = "sdpa", seed: int = 0, **settings: Any) -> LanguageModel:
    tokenizer = word_tokenizer(["a b c d"])
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32}
    special = {"vocab_size": len(tokenizer), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    config = AutoConfig.for_model(model_type, **(shape | special | {"max_position_embeddings": 64, "initializer_range": 0.4} | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    return finish(network, tokenizer, dtype=torch.float32, device=torch.device("cpu"), checkpointing=False)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """One random network for all tests that leave it as it is."""
    return tiny()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> RolloutEngine:
    """Every engine in turn."""
    return ENGINES[request.param]()


def sample(
    engine: RolloutEngine,
    model: LanguageModel,
    prompt_ids: Sequence[Sequence[int]] = RAGGED,
    *,
    group_size: int = 3,
    max_new_tokens: int = LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
) -> Sequence[Completion]:
    prompts = [Prompt(uid=f"question/{i}", question="", gold="", demonstration="") for i in range(len(prompt_ids))]
    return engine.generate(model, prompts, prompt_ids, group_size=group_size, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


def ids(completions: Sequence[Completion]) -> list[list[int]]:
    return [list(completion.ids) for completion in completions]


def next_probabilities(model: LanguageModel, context: Sequence[int], temperature: float) -> Tensor:
    """The exact distribution of the token after `context`, from one forward without a cache."""
    with torch.no_grad():
        return torch.softmax(model.network(input_ids=torch.tensor([context])).logits[0, -1].double() / temperature, dim=0)


def agree(observed: Tensor, expected: Tensor) -> bool:
    """Counts against expected counts; rare outcomes are counted together."""
    rare = expected < 5
    pairs = [torch.cat([values[~rare], values[rare].sum()[None]]) for values in (observed, expected)]
    keep = pairs[1] > 0
    return bool(chisquare(pairs[0][keep], pairs[1][keep]).pvalue > 0.01)


def scored_by_the_trainer(model: LanguageModel, completions: Sequence[Completion], temperature: float) -> list[list[float]]:
    batch = collate(completions, [0.0] * len(completions), pad_id=model.pad_id, mask_truncated=False)
    with torch.no_grad():
        readings, _ = read_completions(model, batch, temperature=temperature, tile=64)
    rows = per_token(readings.logprobs, batch).tolist()
    return [row[: len(completion.ids)] for row, completion in zip(rows, completions, strict=True)]


def largest_gap(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("prompt", [RAGGED[0], RAGGED[1]], ids=["long", "short"])
def test_first_tokens_come_in_the_models_proportions(engine: RolloutEngine, model: LanguageModel, prompt: Sequence[int], temperature: float) -> None:
    # Beside a longer prompt, so that the short one is padded.
    completions = sample(engine, model, [prompt, RAGGED[0]], group_size=4000, max_new_tokens=1, temperature=temperature)[:4000]
    first = torch.bincount(torch.tensor([completion.ids[0] for completion in completions]), minlength=len(model.tokenizer)).double()
    assert agree(first, next_probabilities(model, prompt, temperature) * 4000)


def test_second_tokens_come_in_the_models_proportions(engine: RolloutEngine, model: LanguageModel) -> None:
    prompt, size = RAGGED[1], len(model.tokenizer)
    completions = sample(engine, model, [prompt], group_size=4000, max_new_tokens=2)
    # Outcome `size`: the completion ended before its second token.
    outcomes = torch.tensor([completion.ids[1] if len(completion.ids) == 2 else size for completion in completions])
    first = next_probabilities(model, prompt, 1.0)
    expected = torch.zeros(size + 1, dtype=torch.float64)
    for token, probability in enumerate(first):
        if token in model.eos_ids:
            expected[size] += probability
        else:
            expected[:size] += probability * next_probabilities(model, [*prompt, token], 1.0)
    assert agree(torch.bincount(outcomes, minlength=size + 1).double(), expected * 4000)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_logprobs_are_the_trainers_own(engine: RolloutEngine, model: LanguageModel, temperature: float) -> None:
    completions = sample(engine, model, group_size=6, temperature=temperature)
    assert largest_gap([c.logprobs for c in completions], scored_by_the_trainer(model, completions, temperature)) < 1e-5


def test_there_is_one_logprob_for_each_token(engine: RolloutEngine, model: LanguageModel) -> None:
    assert all(len(completion.ids) == len(completion.logprobs) for completion in sample(engine, model))


def test_completions_stand_in_order_group_by_group(engine: RolloutEngine, model: LanguageModel) -> None:
    completions = sample(engine, model, group_size=2)
    assert [completion.group for completion in completions] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [completion.uid for completion in completions] == [f"question/{i}" for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert [list(completion.prompt_ids) for completion in completions] == [RAGGED[i] for i in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_completions_of_a_group_differ(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, model, [RAGGED[0]], group_size=8))
    assert len({tuple(row) for row in drawn}) > 4


def test_an_eos_is_included_and_nothing_comes_after_it(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, model, group_size=40))
    ended = [row for row in drawn if row[-1] == 1]
    assert len(ended) > 20
    assert len({len(row) for row in ended}) > 4
    assert not any(1 in row[:-1] for row in drawn)


def test_each_of_several_eos_ids_ends_a_completion(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, replace(model, eos_ids=frozenset({1, 5, 9})), group_size=40))
    assert {1, 5, 9} <= {row[-1] for row in drawn}
    assert not any({1, 5, 9} & set(row[:-1]) for row in drawn)


def test_an_id_that_is_no_eos_ends_nothing(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, replace(model, eos_ids=frozenset({999})), group_size=40))
    assert {len(row) for row in drawn} == {LENGTH}
    assert any(1 in row for row in drawn)


def test_truncated_means_full_length_without_an_eos(engine: RolloutEngine, model: LanguageModel) -> None:
    completions = sample(engine, model, group_size=40)
    assert [c.truncated for c in completions] == [len(c.ids) == LENGTH and c.ids[-1] != 1 for c in completions]
    assert {completion.truncated for completion in completions} == {True, False}


def test_an_eos_on_the_last_place_is_not_truncated(engine: RolloutEngine, model: LanguageModel) -> None:
    completions = sample(engine, replace(model, eos_ids=frozenset({1, 5, 9})), group_size=40, max_new_tokens=3)
    last = [c for c in completions if len(c.ids) == 3 and c.ids[-1] in {1, 5, 9}]
    assert last
    assert not any(completion.truncated for completion in last)


def test_text_is_the_ids_without_special_tokens(engine: RolloutEngine, model: LanguageModel) -> None:
    for completion in sample(engine, model, group_size=10):
        assert completion.text == model.tokenizer.decode(list(completion.ids), skip_special_tokens=True)
        assert "<eos>" not in completion.text


def test_the_same_seed_draws_the_same_completions(engine: RolloutEngine, model: LanguageModel) -> None:
    assert sample(engine, model, seed=7) == sample(engine, model, seed=7)


def test_another_seed_draws_other_completions(engine: RolloutEngine, model: LanguageModel) -> None:
    assert ids(sample(engine, model, seed=7)) != ids(sample(engine, model, seed=8))


def test_sampling_neither_reads_nor_moves_the_global_generator(engine: RolloutEngine, model: LanguageModel) -> None:
    first = sample(engine, model)
    torch.rand(3)
    before = torch.get_rng_state()
    assert sample(engine, model) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_is_the_loop_over_the_likeliest_token(engine: RolloutEngine, model: LanguageModel) -> None:
    expected = []
    for prompt in RAGGED:
        row: list[int] = []
        while len(row) < LENGTH and (not row or row[-1] != 1):
            row.append(int(next_probabilities(model, [*prompt, *row], 1.0).argmax()))
        expected.append(row)
    assert ids(sample(engine, model, group_size=1, temperature=0.0)) == expected


def test_greedy_completions_of_a_group_are_equal_and_need_no_seed(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, model, [RAGGED[0]], group_size=2, temperature=0.0, seed=1))
    assert drawn[0] == drawn[1] == ids(sample(engine, model, [RAGGED[0]], group_size=1, temperature=0.0, seed=2))[0]


def test_ragged_prompts_are_answered_as_one_by_one(engine: RolloutEngine, model: LanguageModel) -> None:
    one_by_one = [ids(sample(engine, model, [prompt], group_size=1, temperature=0.0))[0] for prompt in RAGGED]
    assert ids(sample(engine, model, group_size=1, temperature=0.0)) == one_by_one


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_is_restored(engine: RolloutEngine, training: bool) -> None:
    model = tiny()
    model.network.train(training)
    sample(engine, model)
    assert all(module.training == training for module in model.network.modules())


def test_dropout_is_off_while_sampling(engine: RolloutEngine) -> None:
    model = tiny(attention_dropout=0.5)
    quiet = ids(sample(engine, model))
    model.network.train()
    assert ids(sample(engine, model)) == quiet


def test_the_weights_are_as_before_and_have_no_gradient(engine: RolloutEngine) -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    sample(engine, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.network.parameters())


def test_a_changed_policy_is_the_one_that_samples(engine: RolloutEngine) -> None:
    model = tiny()
    sample(engine, model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    completions = sample(engine, model)
    assert largest_gap([c.logprobs for c in completions], scored_by_the_trainer(model, completions, 1.0)) < 1e-5


def adapted() -> LanguageModel:
    """A policy whose adapter is far from the identity."""
    model = with_adapter(tiny(), Lora(rank=2, alpha=4, dropout=0.5, targets=["q_proj", "v_proj", "down_proj"]), 0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    return model


def test_an_adapted_policy_samples_with_its_adapter(engine: RolloutEngine) -> None:
    model = adapted()
    model.network.train()
    completions = sample(engine, model)
    drawn = [c.logprobs for c in completions]
    model.network.eval()
    assert largest_gap(drawn, scored_by_the_trainer(model, completions, 1.0)) < 1e-5
    assert largest_gap(drawn, scored_by_the_trainer(reference(model), completions, 1.0)) > 0.1


def test_with_its_adapter_off_the_start_model_samples(engine: RolloutEngine, model: LanguageModel) -> None:
    assert ids(sample(engine, reference(adapted()))) == ids(sample(engine, model))


def test_no_prompts_give_no_completions(engine: RolloutEngine, model: LanguageModel) -> None:
    assert list(sample(engine, model, [])) == []


@pytest.mark.parametrize(
    ("model_type", "attention", "settings"),
    [
        ("llama", "sdpa", {}),
        ("qwen2", "sdpa", {}),
        ("mistral", "sdpa", {"sliding_window": 6}),
        ("gemma2", "eager", {"final_logit_softcapping": 2.0, "sliding_window": 6}),
        ("granite", "sdpa", {"logits_scaling": 2.0}),
        ("cohere", "sdpa", {"logit_scale": 0.3}),
        ("gpt2", "sdpa", {}),  # absolute positions
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_architectures_report_the_trainers_logprobs(engine: RolloutEngine, model_type: str, attention: str, settings: Mapping[str, Any]) -> None:
    model = tiny(model_type, attention, **settings)
    completions = sample(engine, model)
    assert largest_gap([c.logprobs for c in completions], scored_by_the_trainer(model, completions, 1.0)) < 1e-5


def native(rows_at_once: int = 64, compact_at: float = 0.3, top_p: float = 1.0) -> Native:
    return Native(rows_at_once=rows_at_once, compact_at=compact_at, top_p=top_p)


def same(ours: Sequence[Completion], theirs: Sequence[Completion]) -> bool:
    """Equal in everything, log-probabilities up to rounding."""
    bare = [[replace(completion, logprobs=[]) for completion in completions] for completions in (ours, theirs)]
    return bare[0] == bare[1] and largest_gap([c.logprobs for c in ours], [c.logprobs for c in theirs]) < 1e-5


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 1000])
def test_native_does_not_depend_on_rows_at_once(model: LanguageModel, rows_at_once: int) -> None:
    assert same(sample(native(rows_at_once=rows_at_once), model), sample(native(), model))


@pytest.mark.parametrize("compact_at", [1e-6, 0.1, 0.5, 1.0])
def test_native_does_not_depend_on_compact_at(model: LanguageModel, compact_at: float) -> None:
    assert same(sample(native(compact_at=compact_at), model, group_size=10), sample(native(), model, group_size=10))


def test_native_answers_a_prompt_alike_whatever_comes_after_it(model: LanguageModel) -> None:
    assert ids(sample(native(), model, RAGGED[:2])) == ids(sample(native(), model))[:6]


def rows_forwarded(engine: Native, model: LanguageModel, **settings: Any) -> list[int]:
    """Rows of each forward pass of the network, the prompts' own among them."""
    rows: list[int] = []

    def seen(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(named["input_ids"].shape[0])

    with model.network.register_forward_pre_hook(seen, with_kwargs=True):
        sample(engine, model, **settings)
    return rows


def test_native_computes_a_prompt_once_for_its_group(model: LanguageModel) -> None:
    assert rows_forwarded(native(), model, group_size=8, max_new_tokens=2)[0] == len(RAGGED)


def test_native_drops_finished_rows(model: LanguageModel) -> None:
    rows = rows_forwarded(native(compact_at=1e-6), model, group_size=8)
    lengths = [len(row) for row in ids(sample(native(), model, group_size=8))]
    alive = [sum(length > step for length in lengths) for step in range(1, LENGTH)]
    assert rows[1:] == [count for count in alive if count]


def test_native_builds_no_graph(model: LanguageModel) -> None:
    recorded: list[bool] = []
    with model.network.register_forward_hook(lambda _module, _arguments, output: recorded.append(output.logits.requires_grad)):
        sample(native(), model)
    assert recorded
    assert not any(recorded)


def test_native_stops_when_all_have_ended(model: LanguageModel) -> None:
    everything = replace(model, eos_ids=frozenset(range(len(model.tokenizer))))
    assert len(rows_forwarded(native(), everything)) == 1


@pytest.mark.parametrize(("rows_at_once", "expected"), [(6, 6), (11, 9), (12, 12)])
def test_native_samples_whole_groups_within_rows_at_once(model: LanguageModel, rows_at_once: int, expected: int) -> None:
    assert max(rows_forwarded(native(rows_at_once=rows_at_once), model, group_size=3)) == expected


def test_native_with_top_p_reports_the_cut_distribution(model: LanguageModel) -> None:
    for completion in sample(native(top_p=0.5), model):
        context = list(completion.prompt_ids)
        for token, logprob in zip(completion.ids, completion.logprobs, strict=True):
            p = next_probabilities(model, context, 1.0)
            ordered = p.sort(descending=True).values
            kept = ordered[: int((ordered.cumsum(0) < 0.5).sum()) + 1]
            assert p[token] >= kept[-1] * (1 - 1e-6)
            assert abs(float((p[token] / kept.sum()).log()) - logprob) < 1e-5
            context.append(token)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rows_at_once": 0}, r"rollout\.rows_at_once=0"), ({"compact_at": 0.0}, r"rollout\.compact_at=0\.0"), ({"top_p": 1.2}, r"rollout\.top_p=1\.2")],
)
def test_native_refuses_settings_out_of_range(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        native(**settings)
