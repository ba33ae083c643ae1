"""Demonstrations in place of samples: supervised fine-tuning's rollout."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engines import TokenizerOnly
from tokenizers import processors

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.demonstrations import Demonstrations

WORKED = "Sam has 18 + 3 = <<18+3=21>>21 toys.\n#### 21"
PROMPTS = [
    Prompt(uid="one", question="Sam has 18 toys.", gold="21", demonstration=WORKED),
    Prompt(uid="two", question="Sam has 21 toys.", gold="21", demonstration="#### 21"),
]
PROMPT_IDS = [[5, 6, 7], [8]]


TOKENIZER = word_tokenizer([WORKED])


def demonstrate(
    group_size: int = 1, max_new_tokens: int = 100, seed: int = 0, tokenizer: Any = TOKENIZER
) -> Sequence[Completion]:
    return Demonstrations().generate(
        TokenizerOnly(tokenizer=tokenizer),
        RolloutRequest(
            prompts=PROMPTS,
            prompt_ids=PROMPT_IDS,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seed=seed,
        ),
    )


def bare(completions: Sequence[Completion]) -> list[Completion]:
    """Without log-probabilities: an unknown number is not equal to itself."""
    return [replace(completion, logprobs=[]) for completion in completions]


def test_demonstrations_are_an_engine() -> None:
    assert isinstance(Demonstrations(), RolloutEngine)


def test_a_completion_is_the_demonstration_closed_by_eos() -> None:
    assert [list(c.ids) for c in demonstrate()] == [
        [*TOKENIZER(p.demonstration).input_ids, TOKENIZER.eos_token_id] for p in PROMPTS
    ]


def test_the_text_is_the_demonstration() -> None:
    assert [completion.text for completion in demonstrate()] == [WORKED, "#### 21"]


def test_a_demonstration_fills_its_whole_group_in_order() -> None:
    completions = demonstrate(group_size=3)
    assert [completion.group for completion in completions] == [0, 0, 0, 1, 1, 1]
    assert [completion.uid for completion in completions] == ["one"] * 3 + ["two"] * 3
    assert [list(completion.prompt_ids) for completion in completions] == [PROMPT_IDS[0]] * 3 + [
        PROMPT_IDS[1]
    ] * 3


def test_nothing_is_sampled_so_each_token_has_an_unknown_logprob() -> None:
    for completion in demonstrate():
        assert len(completion.logprobs) == len(completion.ids)
        assert all(math.isnan(logprob) for logprob in completion.logprobs)


def test_the_seed_is_not_read() -> None:
    assert bare(demonstrate(seed=1)) == bare(demonstrate(seed=2))


def test_a_demonstration_too_long_is_cut_and_counts_as_truncated() -> None:
    first = demonstrate(max_new_tokens=4)[0]
    assert list(first.ids) == list(TOKENIZER(WORKED).input_ids[:4])
    assert first.truncated


def test_a_demonstration_that_just_fits_is_whole() -> None:
    length = len(TOKENIZER("#### 21").input_ids) + 1
    assert [completion.truncated for completion in demonstrate(max_new_tokens=length)] == [True, False]


def test_a_demonstration_whose_eos_alone_does_not_fit_is_truncated() -> None:
    length = len(TOKENIZER("#### 21").input_ids)
    second = demonstrate(max_new_tokens=length)[1]
    assert second.truncated
    assert TOKENIZER.eos_token_id not in second.ids


def test_a_tokenizer_that_wraps_its_texts_does_not_wrap_a_demonstration() -> None:
    wrapping = word_tokenizer([WORKED])
    wrapping.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert wrapping("#### 21").input_ids[0] == 1
    assert bare(demonstrate(tokenizer=wrapping)) == bare(demonstrate())


def test_the_shares_of_a_call_put_together_are_the_call() -> None:
    settings = {"group_size": 2, "max_new_tokens": 100, "temperature": 1.0, "seed": 0}
    shares = [
        Demonstrations().generate(
            TokenizerOnly(tokenizer=TOKENIZER),
            RolloutRequest(prompts=PROMPTS, prompt_ids=PROMPT_IDS, **settings, only=only),
        )
        for only in (range(1), range(1, 2))
    ]
    assert len(PROMPTS) == 2 and bare([one for share in shares for one in share]) == bare(
        demonstrate(group_size=2)
    )
