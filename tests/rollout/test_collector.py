"""Collecting a step's rollout, with an engine and a verifier that do as they are told."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from engines import TokenizerOnly

from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Answer, Collector
from mirrorpo.rollout.prompt_order import DataOrder

MODEL = TokenizerOnly(tokenizer=None)
PLAIN = RolloutRule(
    dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
)
DYNAMIC = replace(PLAIN, dynamic_sampling=True, max_draws=4)
NAN = float("nan")

# The gold of a prompt says how its group will do, and each member's reward.
FATES: Mapping[str, Sequence[float]] = {
    "mixed": (1.0, 0.0),
    "solved": (1.0, 1.0),
    "hopeless": (0.0, 0.0),
    "unknown": (NAN, NAN),
    "half": (NAN, 1.0),
    "three of four": (1.0, 1.0, 0.0, 1.0),
    "one silent": (1.0, NAN, 0.0, 1.0),
    "three silent": (NAN, NAN, NAN, 1.0),
}


@dataclass
class Engine:
    """Completions whose text is a number drawn from the seed, and whose length is one more than the
    member's.
    """

    calls: list[dict[str, Any]] = field(default_factory=list)

    samples = True
    serves_remotely = False

    def generate(self, model: Any, request: RolloutRequest) -> Sequence[Completion]:
        settings = {
            name: getattr(request, name) for name in ("group_size", "max_new_tokens", "temperature", "seed")
        }
        self.calls.append({"uids": [prompt.uid for prompt in request.prompts], "model": model, **settings})
        rng = random.Random(request.seed)
        return [
            Completion(
                uid=prompt.uid,
                group=group,
                prompt_ids=ids,
                ids=[7] * (member + 1),
                logprobs=[-1.0] * (member + 1),
                text=f"{member}/{rng.random()}",
                truncated=member + 1 == request.max_new_tokens,
            )
            for group, (prompt, ids) in enumerate(zip(request.prompts, request.prompt_ids, strict=True))
            for member in range(request.group_size)
        ]


def judge(texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
    rewards = [
        FATES[prompt.gold][int(text.split("/")[0])] for text, prompt in zip(texts, prompts, strict=True)
    ]
    return [
        Verdict(reward=reward, strict=reward == 1, flexible=False, correct=reward == 1, outcome="any")
        for reward in rewards
    ]


def collector(
    *fates: str, rule: RolloutRule = PLAIN, engine: Engine | None = None, **changes: Any
) -> Collector:
    """Two groups a step, of prompts q0, q1, ... in order."""
    prompts = [
        Prompt(uid=f"q{index}", question=f"question {index}", gold=fate, demonstration="")
        for index, fate in enumerate(fates)
    ]
    settings = {
        "engine": engine or Engine(),
        "reward": judge,
        "rule": rule,
        "render": lambda prompt: (f"<{prompt.question}>", [int(prompt.uid[1:])]),
        "prompts": prompts,
        "order": DataOrder(size=len(prompts), seed=0, order="sequential"),
        "prompts_per_step": 2,
        "group_size": 2,
        "max_new_tokens": 10,
        "temperature": 0.7,
        "seed": 5,
    }
    return Collector(**{**settings, **changes})


def uids(answers: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(answer.prompt.uid for answer in answers))


# One round


def test_a_step_has_a_group_for_each_of_its_prompts() -> None:
    answers = collector("mixed", "solved", "hopeless")(MODEL, 1, 0).answers
    assert [answer.prompt.uid for answer in answers] == ["q0", "q0", "q1", "q1"]
    assert [answer.completion.group for answer in answers] == [0, 0, 1, 1]


def test_an_answer_has_its_own_prompt_completion_and_verdict() -> None:
    for answer in collector("mixed", "solved")(MODEL, 1, 0).answers:
        member = int(answer.completion.text.split("/")[0])
        assert answer.completion.uid == answer.prompt.uid
        assert answer.rendered == f"<{answer.prompt.question}>"
        assert list(answer.completion.prompt_ids) == [int(answer.prompt.uid[1:])]
        assert answer.verdict.reward == answer.reward == FATES[answer.prompt.gold][member]


def test_the_engine_gets_the_steps_settings() -> None:
    engine = Engine()
    collector("mixed", "mixed", engine=engine)(MODEL, 1, 0)
    (call,) = engine.calls
    assert (call["model"], call["group_size"], call["max_new_tokens"], call["temperature"]) == (
        MODEL,
        2,
        10,
        0.7,
    )


def test_the_walk_over_the_prompts_goes_on_from_the_position() -> None:
    collect = collector("mixed", "mixed", "mixed")
    first = collect(MODEL, 1, 0)
    second = collect(MODEL, 2, first.position)
    assert (first.position, second.position) == (2, 4)
    assert uids(second.answers) == ["q2", "q0"]


def test_plain_sampling_keeps_groups_that_teach_nothing() -> None:
    rollout = collector("solved", "hopeless")(MODEL, 1, 0)
    assert (uids(rollout.answers), rollout.draws) == (["q0", "q1"], 1)


def test_the_same_step_and_position_give_the_same_answers() -> None:
    fates = ("solved", "mixed", "hopeless", "mixed", "mixed")
    one, other = (collector(*fates, rule=DYNAMIC)(MODEL, 3, 1) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("changes", [{"step": 2}, {"seed": 6}], ids=str)
def test_another_step_or_seed_samples_anew(changes: Mapping[str, int]) -> None:
    texts = []
    for step, seed in ((1, 5), (changes.get("step", 1), changes.get("seed", 5))):
        texts.append(
            [
                answer.completion.text
                for answer in collector("mixed", "mixed", seed=seed)(MODEL, step, 0).answers
            ]
        )
    assert all(one != other for one, other in zip(*texts, strict=True))


# Dynamic sampling


def test_groups_whose_rewards_are_all_equal_are_replaced() -> None:
    rollout = collector("solved", "mixed", "hopeless", "mixed", rule=DYNAMIC)(MODEL, 1, 0)
    assert (uids(rollout.answers), rollout.draws) == (["q1", "q3"], 2)


def test_a_full_step_draws_no_further_round() -> None:
    rollout = collector("mixed", "mixed", "mixed", "mixed", rule=DYNAMIC)(MODEL, 1, 0)
    assert (uids(rollout.answers), rollout.draws) == (["q0", "q1"], 1)


def test_a_step_takes_the_first_groups_that_teach() -> None:
    rollout = collector("solved", "mixed", "mixed", "mixed", rule=DYNAMIC)(MODEL, 1, 0)
    assert uids(rollout.answers) == ["q1", "q2"]


def test_groups_are_taken_whole() -> None:
    answers = collector("solved", "mixed", "mixed", "mixed", rule=DYNAMIC)(MODEL, 1, 0).answers
    assert [answer.prompt.uid for answer in answers] == ["q1", "q1", "q2", "q2"]


def test_groups_of_different_rounds_have_ids_of_their_own() -> None:
    # One prompt only: the same question comes back in every round.
    fates = ["solved", "mixed"]
    answers = collector(*fates, rule=DYNAMIC)(MODEL, 1, 0).answers
    assert uids(answers) == ["q1"]
    groups = [answer.completion.group for answer in answers]
    assert groups == [1, 1, 3, 3]


def test_rounds_of_a_step_sample_anew() -> None:
    engine = Engine()
    collector("solved", rule=DYNAMIC, engine=engine)(MODEL, 1, 0)
    assert len({call["seed"] for call in engine.calls}) == 4


def test_sampling_stops_after_max_draws_with_what_there_is() -> None:
    rollout = collector("mixed", *["solved"] * 7, rule=replace(DYNAMIC, max_draws=3))(MODEL, 1, 0)
    assert (uids(rollout.answers), rollout.draws) == (["q0"], 3)


def test_every_round_moves_the_walk_on() -> None:
    rollout = collector("solved", "mixed", "hopeless", "mixed", rule=DYNAMIC)(MODEL, 1, 1)
    assert rollout.position == 1 + 2 * rollout.draws


def test_when_no_group_teaches_the_last_round_is_taken() -> None:
    rollout = collector(
        "solved", "hopeless", "solved", "hopeless", "hopeless", "solved", rule=replace(DYNAMIC, max_draws=3)
    )(MODEL, 1, 0)
    assert (uids(rollout.answers), rollout.draws, rollout.position) == (["q4", "q5"], 3, 6)


def test_whether_a_group_teaches_is_asked_of_the_verdicts_before_shaping() -> None:
    # Members of different length get different rewards; their answers are all right all the same.
    rule = replace(DYNAMIC, max_draws=2, overlong_buffer=1.0, overlong_penalty=1.0)
    rollout = collector("solved", "solved", "mixed", "mixed", rule=rule)(MODEL, 1, 0)
    assert uids(rollout.answers) == ["q2", "q3"]


def test_a_missing_verdict_alone_makes_no_group_worth_training_on() -> None:
    rollout = collector("half", "mixed", "mixed", "mixed", rule=DYNAMIC)(MODEL, 1, 0)
    assert uids(rollout.answers) == ["q1", "q2"]


# Overlong shaping


def test_shaping_lowers_the_reward_of_long_answers_and_leaves_the_verdict() -> None:
    # Half of four tokens is the buffer; members are 1, 2, 3 and 4 tokens long.
    rule = replace(PLAIN, overlong_buffer=0.5, overlong_penalty=0.5)
    answers = collector("three of four", rule=rule, prompts_per_step=1, group_size=4, max_new_tokens=4)(
        MODEL, 1, 0
    ).answers
    assert [answer.reward for answer in answers] == [1.0, 1.0, 0.0 - 0.25, 1.0 - 0.5]
    assert [answer.verdict.reward for answer in answers] == [1.0, 1.0, 0.0, 1.0]


# Missing verdicts


def test_a_verifier_silent_on_more_than_half_stops_the_step() -> None:
    with pytest.raises(RuntimeError, match=r"^step 3: the verifier gave no verdict on 3 of 4 completions"):
        collector("unknown", "half")(MODEL, 3, 0)


def test_a_verifier_silent_on_half_does_not() -> None:
    rewards = [answer.reward for answer in collector("unknown", "mixed")(MODEL, 1, 0).answers]
    assert [math.isnan(reward) for reward in rewards] == [True, True, False, False]


def test_dynamic_sampling_does_not_hide_a_silent_verifier() -> None:
    with pytest.raises(RuntimeError, match="no verdict on 6 of 8"):
        collector("unknown", "unknown", "mixed", "unknown", rule=replace(DYNAMIC, max_draws=2))(MODEL, 1, 0)


def test_a_completion_without_a_verdict_is_present_and_not_trained() -> None:
    answers = collector("one silent", prompts_per_step=1, group_size=4)(MODEL, 1, 0).answers
    batch = collate(
        [answer.completion for answer in answers],
        [answer.reward for answer in answers],
        pad_id=0,
        mask_truncated=False,
    )
    assert batch.mask.any(dim=1).tolist() == [True, False, True, True]
    assert torch.equal(batch.present.sum(dim=1), torch.arange(1, 5))


def test_a_completion_with_a_verdict_is_trained_on_every_token() -> None:
    answers = collector("three of four", prompts_per_step=1, group_size=4)(MODEL, 1, 0).answers
    batch = collate(
        [answer.completion for answer in answers],
        [answer.reward for answer in answers],
        pad_id=0,
        mask_truncated=False,
    )
    assert torch.equal(batch.mask, batch.present)
