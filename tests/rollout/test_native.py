"""What `Native` promises beyond the contract of an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import LENGTH, RAGGED, ids, largest_gap, native, next_probabilities, sample, tiny

from mirrorpo.core.batch import Completion
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.plain import plain_logprobs
from mirrorpo.rollout.native import Native
from mirrorpo.tools.model_table import loaded


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """One random network for all tests that leave it as it is."""
    return tiny()


def same(ours: Sequence[Completion], theirs: Sequence[Completion]) -> bool:
    """Equal in everything, log-probabilities up to rounding."""
    bare = [
        [replace(completion, logprobs=[]) for completion in completions] for completions in (ours, theirs)
    ]
    return bare[0] == bare[1] and largest_gap([c.logprobs for c in ours], [c.logprobs for c in theirs]) < 1e-5


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 1000])
def test_native_does_not_depend_on_rows_at_once(model: LanguageModel, rows_at_once: int) -> None:
    assert same(sample(native(rows_at_once=rows_at_once), model), sample(native(), model))


@pytest.mark.parametrize("compact_at", [1e-6, 0.1, 0.5, 1.0])
def test_native_does_not_depend_on_compact_at(model: LanguageModel, compact_at: float) -> None:
    assert same(
        sample(native(compact_at=compact_at), model, group_size=10), sample(native(), model, group_size=10)
    )


def test_native_answers_a_prompt_alike_whatever_comes_after_it(model: LanguageModel) -> None:
    assert ids(sample(native(), model, RAGGED[:2])) == ids(sample(native(), model))[:6]


def rows_forwarded(engine: Native, model: LanguageModel, **settings: Any) -> list[int]:
    """Rows of each forward pass of the network, the prompts' own among them."""
    rows: list[int] = []

    def seen(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(named["input_ids"].shape[0])

    with model.decoder.register_forward_pre_hook(seen, with_kwargs=True):
        sample(engine, model, **settings)
    return rows


def test_native_computes_a_prompt_once_for_its_group(model: LanguageModel) -> None:
    assert rows_forwarded(native(), model, group_size=8, max_new_tokens=2)[0] == len(RAGGED)


@pytest.mark.parametrize(
    ("model_type", "attention", "settings", "computed"),
    [
        ("qwen3", "sdpa", {}, 3),
        ("gpt2", "eager", {}, 3),
        ("bloom", "eager", {}, 3),
        ("mistral", "sdpa", {"sliding_window": 6}, 6),
    ],
    ids=["qwen3", "gpt2", "ALiBi", "sliding window"],
)
def test_native_reads_beginnings_off_the_longest_prompt(
    model_type: str, attention: str, settings: Mapping[str, Any], computed: int
) -> None:
    prompts = [[5, 6, 7], [4], [5], [5, 6, 7, 8, 9, 4, 3, 11], [5, 6, 7, 7], [5, 6, 7, 8, 9]]
    model = tiny(model_type, attention, **settings)
    shared, alone = (
        sample(native(), model, prompts, temperature=1.0, nested=nested) for nested in (True, False)
    )
    assert same(shared, alone)
    assert len({tuple(row) for row in ids(shared)}) > len(prompts)
    assert rows_forwarded(native(), model, prompt_ids=prompts, nested=True)[0] == computed
    assert same(sample(native(rows_at_once=6), model, prompts, nested=True), alone)


def test_native_drops_finished_rows(model: LanguageModel) -> None:
    rows = rows_forwarded(native(compact_at=1e-6), model, group_size=8)
    lengths = [len(row) for row in ids(sample(native(), model, group_size=8))]
    alive = [sum(length > step for length in lengths) for step in range(1, LENGTH)]
    assert rows[1:] == [count for count in alive if count]


def masks_shown(engine: Native, model: LanguageModel) -> set[int]:
    """How many dimensions the attention masks have that the network gets after the prompts."""
    shown: list[int] = []
    with model.decoder.register_forward_pre_hook(
        lambda _module, _arguments, named: shown.append(named["attention_mask"].ndim), with_kwargs=True
    ):
        sample(engine, model)
    return set(shown[1:])


@pytest.mark.parametrize(
    ("model_type", "attention", "settings", "dimensions"),
    [
        ("qwen3", "sdpa", {}, 4),
        ("gpt2", "eager", {}, 4),
        ("mistral", "sdpa", {"sliding_window": 6}, 2),
        ("bloom", "eager", {}, 2),
    ],
    ids=["qwen3", "gpt2", "sliding window", "ALiBi"],
)
def test_native_makes_the_mask_ready_where_all_layers_take_the_same(
    model_type: str, attention: str, settings: Mapping[str, Any], dimensions: int
) -> None:
    assert masks_shown(native(), tiny(model_type, attention, **settings)) == {dimensions}


@pytest.mark.parametrize("check_every", [2, 3, 5, 100])
def test_native_does_not_depend_on_check_every(model: LanguageModel, check_every: int) -> None:
    assert same(
        sample(native(check_every=check_every), model, group_size=10), sample(native(), model, group_size=10)
    )


@pytest.mark.parametrize("cache_block", [1, 3, 100])
def test_native_does_not_depend_on_cache_block(model: LanguageModel, cache_block: int) -> None:
    assert same(
        sample(native(cache_block=cache_block), model, group_size=10), sample(native(), model, group_size=10)
    )


@pytest.mark.parametrize("check_every", [1, 4])
def test_native_asks_the_device_once_in_check_every_tokens(
    model: LanguageModel, check_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        torch, "isin", lambda *arguments, isin=torch.isin: asked.append(True) or isin(*arguments)
    )
    sample(native(check_every=check_every), replace(model, eos_ids=frozenset({999})))
    # And once for the lengths at the end.
    assert len(asked) == LENGTH // check_every + 1


def test_native_builds_no_graph(model: LanguageModel) -> None:
    recorded: list[bool] = []
    with model.decoder.register_forward_hook(
        lambda _module, _arguments, output: recorded.append(output.last_hidden_state.requires_grad)
    ):
        sample(native(), model)
    assert recorded
    assert not any(recorded)


def test_native_stops_when_all_have_ended(model: LanguageModel) -> None:
    everything = replace(model, eos_ids=frozenset(range(len(model.tokenizer))))
    assert len(rows_forwarded(native(), everything)) == 1


@pytest.mark.parametrize(("rows_at_once", "expected"), [(6, 6), (11, 9), (12, 12)])
def test_native_samples_whole_groups_within_rows_at_once(
    model: LanguageModel, rows_at_once: int, expected: int
) -> None:
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
    [
        ({"rows_at_once": 0}, r"rollout\.rows_at_once=0"),
        ({"check_every": 0}, r"rollout\.check_every=0"),
        ({"cache_block": 0}, r"rollout\.cache_block=0"),
        ({"compact_at": 0.0}, r"rollout\.compact_at=0\.0"),
        ({"top_p": 1.2}, r"rollout\.top_p=1\.2"),
    ],
)
def test_native_refuses_settings_out_of_range(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        native(**settings)


@pytest.mark.parametrize("name", ["qwen3_5_text", "falcon_h1_mult1", "lfm2"])
def test_native_samples_from_models_that_keep_a_state(name: str) -> None:
    hybrid = replace(loaded(name), eos_ids=frozenset(range(0, 40, 6)))
    completions = sample(native(compact_at=0.1, check_every=1, cache_block=2), hybrid, group_size=4)
    assert len({len(completion.ids) for completion in completions}) > 1
    for completion in completions:
        alone = plain_logprobs(hybrid, completion.prompt_ids, completion.ids, 1.0)
        torch.testing.assert_close(torch.tensor(completion.logprobs), alone.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows_at_once", [4, 1000])
def test_native_answers_greedily_beside_its_samples_and_computes_a_prompt_once(
    model: LanguageModel, rows_at_once: int
) -> None:
    engine = native(rows_at_once=rows_at_once)
    greedy, sampled = sample(engine, model, temperature=0.0, group_size=1), sample(engine, model)
    both = sample(engine, model, with_greedy=True, by_length=True)
    assert same([both[row] for row in range(0, 16, 4)], greedy)
    assert same([both[row] for row in range(16) if row % 4], sampled)
    if rows_at_once == 1000:
        assert rows_forwarded(engine, model, with_greedy=True)[0] == len(RAGGED)
    else:
        # Four rows are one prompt's; prompts of like length come together, so that few places are padding.
        assert places(engine, model, by_length=True) < places(engine, model)


def places(engine: Native, model: LanguageModel, **settings: Any) -> int:
    """Places of the prompts that are computed, two at once."""
    seen: list[int] = []
    hook = model.decoder.register_forward_pre_hook(
        lambda _module, _arguments, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    sample(native(rows_at_once=2), model, group_size=1, max_new_tokens=1, **settings)
    hook.remove()
    return sum(seen)
