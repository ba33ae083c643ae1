"""The contract of a rollout engine, as a suite that every engine joins by a line in `engines.ENGINES`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import (
    ENGINES,
    LENGTH,
    RAGGED,
    Entry,
    ids,
    largest_gap,
    next_probabilities,
    sample,
    scored_by_the_trainer,
)
from scipy.stats import chisquare
from torch import Tensor

from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, reference, with_adapter

# peft 0.21 asks for a property that transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


# vLLM and the libraries it brings warn of their own deprecations.
OPT_IN = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(entry, id=name, marks=OPT_IN if entry.slow else ()) for name, entry in ENGINES.items()
    ],
)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Every engine in turn."""
    return request.param


@pytest.fixture
def engine(entry: Entry) -> RolloutEngine:
    return entry.build()


@pytest.fixture(scope="module")
def model(entry: Entry) -> LanguageModel:
    """One random network for all tests that leave it as it is."""
    return entry.network()


def agree(observed: Tensor, expected: Tensor) -> bool:
    """Counts against expected counts; rare outcomes are counted together."""
    rare = expected < 5
    pairs = [torch.cat([values[~rare], values[rare].sum()[None]]) for values in (observed, expected)]
    keep = pairs[1] > 0
    return bool(chisquare(pairs[0][keep], pairs[1][keep]).pvalue > 0.01)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("prompt", [RAGGED[0], RAGGED[1]], ids=["long", "short"])
def test_first_tokens_come_in_the_models_proportions(
    engine: RolloutEngine, model: LanguageModel, prompt: Sequence[int], temperature: float
) -> None:
    # Beside a longer prompt, so that the short one is padded.
    completions = sample(
        engine, model, [prompt, RAGGED[0]], group_size=4000, max_new_tokens=1, temperature=temperature
    )[:4000]
    first = torch.bincount(
        torch.tensor([completion.ids[0] for completion in completions]), minlength=len(model.tokenizer)
    ).double()
    assert agree(first, next_probabilities(model, prompt, temperature) * 4000)


def test_second_tokens_come_in_the_models_proportions(engine: RolloutEngine, model: LanguageModel) -> None:
    prompt, size = RAGGED[1], len(model.tokenizer)
    completions = sample(engine, model, [prompt], group_size=4000, max_new_tokens=2)
    # Outcome `size`: the completion ended before its second token.
    outcomes = torch.tensor(
        [completion.ids[1] if len(completion.ids) == 2 else size for completion in completions]
    )
    first = next_probabilities(model, prompt, 1.0)
    expected = torch.zeros(size + 1, dtype=torch.float64)
    for token, probability in enumerate(first):
        if token in model.eos_ids:
            expected[size] += probability
        else:
            expected[:size] += probability * next_probabilities(model, [*prompt, token], 1.0)
    assert agree(torch.bincount(outcomes, minlength=size + 1).double(), expected * 4000)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_logprobs_are_the_trainers_own(
    engine: RolloutEngine, model: LanguageModel, temperature: float
) -> None:
    completions = sample(engine, model, group_size=6, temperature=temperature)
    assert (
        largest_gap([c.logprobs for c in completions], scored_by_the_trainer(model, completions, temperature))
        < 1e-5
    )


def test_there_is_one_logprob_for_each_token(engine: RolloutEngine, model: LanguageModel) -> None:
    assert all(len(completion.ids) == len(completion.logprobs) for completion in sample(engine, model))


def test_completions_stand_in_order_group_by_group(engine: RolloutEngine, model: LanguageModel) -> None:
    completions = sample(engine, model, group_size=2)
    assert [completion.group for completion in completions] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [completion.uid for completion in completions] == [
        f"question/{i}" for i in (0, 0, 1, 1, 2, 2, 3, 3)
    ]
    assert [list(completion.prompt_ids) for completion in completions] == [
        RAGGED[i] for i in (0, 0, 1, 1, 2, 2, 3, 3)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_shares_of_a_call_put_together_are_the_call(
    engine: RolloutEngine, model: LanguageModel, temperature: float
) -> None:
    call = sample(engine, model, temperature=temperature)
    shares = [
        sample(engine, model, temperature=temperature, only=only)
        for only in (range(0), range(0, 1), range(1, 4), range(4, 4))
    ]
    assert [len(share) for share in shares] == [0, 3, 9, 0]
    put_together = [completion for share in shares for completion in share]
    assert ids(put_together) == ids(call) and [c.group for c in put_together] == [c.group for c in call]
    assert largest_gap([c.logprobs for c in put_together], [c.logprobs for c in call]) < 1e-5


def test_completions_of_a_group_differ(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, model, [RAGGED[0]], group_size=8))
    assert len({tuple(row) for row in drawn}) > 4


def test_two_groups_of_one_prompt_differ(engine: RolloutEngine, model: LanguageModel) -> None:
    drawn = ids(sample(engine, model, [RAGGED[0]] * 2, group_size=8))
    assert drawn[:8] != drawn[8:]


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
    assert [c.truncated for c in completions] == [
        len(c.ids) == LENGTH and c.ids[-1] != 1 for c in completions
    ]
    assert {completion.truncated for completion in completions} == {True, False}


def test_an_eos_on_the_last_place_is_not_truncated(engine: RolloutEngine, model: LanguageModel) -> None:
    completions = sample(
        engine, replace(model, eos_ids=frozenset({1, 5, 9})), group_size=40, max_new_tokens=3
    )
    last = [c for c in completions if len(c.ids) == 3 and c.ids[-1] in {1, 5, 9}]
    assert last
    assert not any(completion.truncated for completion in last)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
def test_no_completion_is_longer_than_max_new_tokens(
    engine: RolloutEngine, model: LanguageModel, max_new_tokens: int
) -> None:
    long = [row[:max_new_tokens] for row in ids(sample(engine, model, group_size=1, temperature=0.0))]
    assert ids(sample(engine, model, group_size=1, temperature=0.0, max_new_tokens=max_new_tokens)) == long


def test_text_is_the_ids_without_special_tokens(engine: RolloutEngine, model: LanguageModel) -> None:
    for completion in sample(engine, model, group_size=10):
        assert completion.text == model.tokenizer.decode(list(completion.ids), skip_special_tokens=True)
        assert "<eos>" not in completion.text


def test_the_same_seed_draws_the_same_completions(engine: RolloutEngine, model: LanguageModel) -> None:
    assert sample(engine, model, seed=7) == sample(engine, model, seed=7)


def test_another_seed_draws_other_completions(engine: RolloutEngine, model: LanguageModel) -> None:
    assert ids(sample(engine, model, seed=7)) != ids(sample(engine, model, seed=8))


def test_sampling_neither_reads_nor_moves_the_global_generator(
    engine: RolloutEngine, model: LanguageModel
) -> None:
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


def test_greedy_completions_of_a_group_are_equal_and_need_no_seed(
    engine: RolloutEngine, model: LanguageModel
) -> None:
    drawn = ids(sample(engine, model, [RAGGED[0]], group_size=2, temperature=0.0, seed=1))
    assert (
        drawn[0]
        == drawn[1]
        == ids(sample(engine, model, [RAGGED[0]], group_size=1, temperature=0.0, seed=2))[0]
    )


def test_ragged_prompts_are_answered_as_one_by_one(engine: RolloutEngine, model: LanguageModel) -> None:
    one_by_one = [ids(sample(engine, model, [prompt], group_size=1, temperature=0.0))[0] for prompt in RAGGED]
    assert ids(sample(engine, model, group_size=1, temperature=0.0)) == one_by_one


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_is_restored(entry: Entry, engine: RolloutEngine, training: bool) -> None:
    model = entry.network()
    model.network.train(training)
    sample(engine, model)
    assert all(module.training == training for module in model.network.modules())


def test_dropout_is_off_while_sampling(entry: Entry, engine: RolloutEngine) -> None:
    model = entry.network(attention_dropout=0.5)
    quiet = ids(sample(engine, model))
    model.network.train()
    assert ids(sample(engine, model)) == quiet


def test_the_weights_are_as_before_and_have_no_gradient(entry: Entry, engine: RolloutEngine) -> None:
    model = entry.network()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    sample(engine, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.network.parameters())


def test_a_changed_policy_is_the_one_that_samples(entry: Entry, engine: RolloutEngine) -> None:
    model = entry.network()
    sample(engine, model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    completions = sample(engine, model)
    assert (
        largest_gap([c.logprobs for c in completions], scored_by_the_trainer(model, completions, 1.0)) < 1e-5
    )


def adapted(entry: Entry) -> LanguageModel:
    """A policy whose adapter is far from the identity."""
    model = with_adapter(
        entry.network(), Lora(rank=2, alpha=4, dropout=0.5, targets=["q_proj", "v_proj", "down_proj"]), 0
    )
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    return model


def test_an_adapted_policy_samples_with_its_adapter(entry: Entry, engine: RolloutEngine) -> None:
    model = adapted(entry)
    model.network.train()
    completions = sample(engine, model)
    drawn = [c.logprobs for c in completions]
    model.network.eval()
    assert largest_gap(drawn, scored_by_the_trainer(model, completions, 1.0)) < 1e-5
    assert largest_gap(drawn, scored_by_the_trainer(reference(model), completions, 1.0)) > 0.1


def test_with_its_adapter_off_the_start_model_samples(
    entry: Entry, engine: RolloutEngine, model: LanguageModel
) -> None:
    assert ids(sample(engine, reference(adapted(entry)))) == ids(sample(engine, model))


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
        ("bloom", "eager", {}),  # ALiBi
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_architectures_report_the_trainers_logprobs(
    entry: Entry, engine: RolloutEngine, model_type: str, attention: str, settings: Mapping[str, Any]
) -> None:
    model = entry.network(model_type, attention, **settings)
    completions = sample(engine, model)
    assert largest_gap(
        [c.logprobs for c in completions], scored_by_the_trainer(model, completions, 1.0)
    ) < entry.off.get(model_type, 1e-5)
