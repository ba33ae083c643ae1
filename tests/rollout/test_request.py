"""What is asked of vLLM, and its answers as completions."""

from dataclasses import replace
from typing import Any

import pytest
from small_models import EOS, VOCABULARY
from small_models import model as small
from transformers import PreTrainedTokenizerFast

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.request import group_completions, sampling_settings

PROMPT = Prompt(uid="question/0", question="", gold="", demonstration="")
REQUEST = RolloutRequest(
    prompts=[PROMPT] * 20, prompt_ids=[[7, 8]] * 20, group_size=3, max_new_tokens=4, temperature=0.7, seed=5
)


class Brackets(PreTrainedTokenizerFast):
    """A tokenizer that spells ids in brackets."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f"<{i}>" for i in token_ids if i != EOS)


@pytest.fixture
def model() -> LanguageModel:
    return replace(small("qwen3"), tokenizer=Brackets(tokenizer_object=word_tokenizer([]).backend_tokenizer))


def answered(
    model: LanguageModel, *answers: tuple[list[int], list[float]], **changes: Any
) -> list[Completion]:
    return group_completions(replace(REQUEST, **changes), model, 2, answers)


def test_the_distribution_is_cut_by_nothing_but_the_settings(model: LanguageModel):
    settings = sampling_settings(REQUEST, model, 0, 0.9)
    assert {
        key: settings[key]
        for key in ("n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    } == {
        "n": 3,
        "max_tokens": 4,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_completions_end_where_the_policy_says_and_vllm_knows_no_id_beyond_the_vocabulary(
    model: LanguageModel,
):
    settings = sampling_settings(REQUEST, replace(model, eos_ids=frozenset({9, 1, VOCABULARY})), 0, 0.9)
    assert settings["ignore_eos"] is True and settings["stop_token_ids"] == [1, 9]


def test_every_group_and_every_call_has_its_own_seed_with_room_for_the_group_behind_it(model: LanguageModel):
    seeds = [
        sampling_settings(replace(REQUEST, seed=seed), model, group, 0.9)["seed"]
        for seed in range(20)
        for group in range(20)
    ]
    assert len(set(seeds)) == 400 and all(0 <= seed < 2**62 for seed in seeds)
    assert seeds[0] == sampling_settings(replace(REQUEST, seed=0), model, 0, 0.9)["seed"]


def test_a_greedy_group_is_asked_for_once_and_is_certain_of_its_tokens(model: LanguageModel):
    settings = sampling_settings(replace(REQUEST, temperature=0.0), model, 0, 0.9)
    assert (settings["n"], settings["top_p"]) == (1, 1.0)
    found = answered(model, ([5, 1], [-0.5, -0.25]), temperature=0.0)
    assert len(found) == 3 and {tuple(completion.logprobs) for completion in found} == {(0.0, 0.0)}


def test_ids_and_logprobs_are_kept_and_the_end_is_told_from_the_length(model: LanguageModel):
    found = answered(model, ([5, 1], [-0.5, -0.25]), ([5, 6, 7, 1], [-1.0] * 4), ([5, 6, 7, 8], [-2.0] * 4))
    assert [completion.truncated for completion in found] == [False, False, True]
    assert found[0] == Completion(
        uid="question/0",
        group=2,
        prompt_ids=[7, 8],
        ids=[5, 1],
        logprobs=[-0.5, -0.25],
        text="<5>",
        truncated=False,
    )


@pytest.mark.parametrize("ids", [[5, 6], []])
def test_a_completion_that_the_engines_context_cut_short_is_refused(model: LanguageModel, ids: list[int]):
    with pytest.raises(
        ValueError, match=rf"^rollout\.max_model_len: .* at {len(ids)} of 4 tokens behind a prompt of 2"
    ):
        answered(model, (ids, [-1.0] * len(ids)))
