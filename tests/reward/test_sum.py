"""A sum of rewards: its numbers, what of it is right, what is left out, and its command lines."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from cli import cell_here
from foreign import OwnWords, Programs, exact_match

from mirrorpo.config.identity import config_hash
from mirrorpo.core.batch import Prompt
from mirrorpo.reward.sum import WeightedSum
from mirrorpo.train.build import build_components
from mirrorpo.train.metrics import part_metrics

PROMPT = Prompt(uid="q", question="1 + 1", gold="2", demonstration="")
NAN = float("nan")


def silent_on_a_question_mark(prompt: Prompt, completion: str) -> float:
    return NAN if "?" in completion else 0.5


def summed(correct: str = "right", **parts: tuple[float, Any]) -> WeightedSum:
    return WeightedSum(
        correct=correct,
        parts={name: {"weight": weight, "reward": reward} for name, (weight, reward) in parts.items()},
    )


def test_a_sum_is_the_weighted_sum_and_right_is_what_the_named_part_says() -> None:
    reward = summed(right=(1.0, OwnWords()), half=(-0.5, silent_on_a_question_mark))
    verdicts = reward(["2", "3", "2?"], [PROMPT] * 3)
    assert [verdict.reward for verdict in verdicts[:2]] == [2.25, -0.25] and math.isnan(verdicts[2].reward)
    # Correct is the part's, also where the sum has no value.
    assert [verdict.correct for verdict in verdicts] == [True, False, True]
    assert [verdict.outcome for verdict in verdicts] == ["bravo", "alas", "unverifiable"]
    assert verdicts[0].parts == {"right": 2.5, "half": 0.5}
    metrics = part_metrics(verdicts, "reward")
    assert metrics == {
        "reward/part/right": pytest.approx(5 / 3),
        "reward/unverifiable/right": 0.0,
        "reward/part/half": 0.5,
        "reward/unverifiable/half": 1.0,
    }


def test_a_part_of_weight_zero_is_logged_and_leaves_nothing_out() -> None:
    (verdict,) = summed(right=(1.0, exact_match), half=(0.0, silent_on_a_question_mark))(["? 2"], [PROMPT])
    assert verdict.reward == 1.0 and verdict.outcome == "right" and math.isnan(verdict.parts["half"])


def test_a_sum_says_of_itself_what_its_parts_say() -> None:
    reward = summed(right=(1.0, OwnWords()), tests=(1.0, Programs(version="own/2")))
    assert reward.version == "sum/1 right=own/1, tests=own/2"
    assert reward.unjudgeable([PROMPT]) == {"q": "tests: its tests are missing"}
    assert reward.provenance() == {
        "sandbox": "a jail",
        "reward_parts": {
            "right": {"version": "own/1", "sandbox": None},
            "tests": {"version": "own/2", "sandbox": "a jail"},
        },
    }


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": {"weight": 1.0, "reward": exact_match}}, r"^reward\.correct=right: .* choose one of a$"),
        (
            {"right": {"reward": exact_match}},
            r"^reward\.parts\.right has reward: a part has a `weight`",
        ),
        ({"right": {}}, r"^reward\.parts\.right has nothing: .*\+reward@reward\.parts\.right\.reward=NAME"),
        ({"right": {"weight": "1", "reward": exact_match}}, r"^reward\.parts\.right\.weight='1': give a num"),
        ({"right": {"weight": math.inf, "reward": exact_match}}, r"^reward\.parts\.right\.weight=inf: give"),
        ({"right": {"weight": 1, "reward": 3}}, r"^reward\.parts\.right\.reward: a int came; give a class"),
    ],
)
def test_a_part_that_is_none_is_refused_by_its_setting(parts: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        WeightedSum(correct="right", parts=parts)
    assert "\n" not in str(error.value)


def test_a_command_line_sets_weights_and_exchanges_adds_and_drops_parts() -> None:
    def settings(*overrides: str) -> dict[str, Any]:
        config = cell_here("reward=sum", *overrides).config
        return {**config["reward"], "version": build_components(config).reward.version}

    assert settings("reward.parts.length.weight=0.1")["parts"]["length"]["weight"] == 0.1
    exchanged = settings("reward@reward.parts.correctness.reward=last_number", "~reward.parts.format")
    assert exchanged["parts"]["correctness"]["reward"]["extraction"] == "flexible"
    assert exchanged["version"] == "sum/1 correctness=math_answer/2, length=length/1"
    added = settings("+reward@reward.parts.mine.reward=stop_words", "+reward.parts.mine.weight=0.2")
    assert added["version"].endswith("format=format/1, mine=stop_words/1")
    inside = settings("+reward.parts.f={weight: 1, reward: {_target_: foreign.exact_match, _partial_: true}}")
    assert ", f=function " in inside["version"]


def test_what_changes_no_number_of_a_part_makes_no_other_run() -> None:
    tests = ("dataset=mbpp", "reward=sum", "reward@reward.parts.correctness.reward=code_tests")
    setting = "reward.parts.correctness.reward"
    assert config_hash(cell_here(*tests).config) == config_hash(
        cell_here(*tests, f"{setting}.workers=9", "sandbox=unsafe").config
    )
    assert config_hash(cell_here(*tests).config) != config_hash(
        cell_here(*tests, f"{setting}.cpu_s=9").config
    )
