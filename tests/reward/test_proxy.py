"""A proxy beside its gold: which of the two is trained on, and which decides what is right."""

import math

import pytest
from cli import cell_here
from foreign import OwnWords

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.composed import right_answers
from mirrorpo.reward.named_answer import NamedAnswer
from mirrorpo.reward.plain import Judged
from mirrorpo.reward.proxy import Proxy
from mirrorpo.reward.sum import WeightedSum
from mirrorpo.train.build import build_components
from mirrorpo.train.metrics import part_metrics

PROMPT = Prompt(uid="q", question="1 + 1", gold="2", demonstration="")
NAN = float("nan")


def length(prompt: Prompt, completion: str) -> float:
    return NAN if "!" in completion else float(len(completion))


def test_the_proxy_is_trained_on_and_the_gold_says_what_is_right() -> None:
    reward = Proxy(proxy=length, gold=OwnWords())
    verdicts = reward(["2", "333", "22!"], [PROMPT] * 3)
    assert [verdict.reward for verdict in verdicts[:2]] == [1.0, 3.0] and math.isnan(verdicts[2].reward)
    assert [verdict.gold for verdict in verdicts] == [2.5, 0.0, 2.5]
    assert [verdict.correct for verdict in verdicts] == [True, False, True]
    assert [verdict.outcome for verdict in verdicts] == ["bravo", "alas", "unverifiable"]
    assert reward.version.startswith("proxy/1 proxy=function ") and reward.version.endswith(", gold=own/1")


def test_gold_gap_and_correlation_are_over_what_both_have_judged() -> None:
    verdicts = Proxy(proxy=length, gold=OwnWords())(["2", "333", "22!", "12"], [PROMPT] * 4)
    # Proxy 1, 3, 2 and gold 2.5, 0, 2.5, without the third completion.
    assert part_metrics(verdicts, "reward") == {
        "reward/gold": pytest.approx(7.5 / 4),
        "reward/gold_unverifiable": 0.0,
        "reward/gold_gap": pytest.approx((6 - 5) / 3),
        "reward/gold_correlation": pytest.approx(-math.sqrt(3) / 2),
    }
    same = part_metrics(verdicts[:1], "eval")
    assert math.isnan(same["eval/gold_correlation"]) and same["eval/gold"] == 2.5


def test_a_gold_that_has_no_value_leaves_the_completion_in_training() -> None:
    (verdict,) = Proxy(proxy=OwnWords(), gold=length)(["2!"], [PROMPT])
    assert verdict.reward == 2.5 and not verdict.correct and verdict.outcome == "unverifiable"
    assert part_metrics([verdict], "reward")["reward/gold_unverifiable"] == 1.0


def test_a_sum_may_be_the_proxy_and_its_parts_are_logged() -> None:
    reward = build_components(cell_here("reward=proxy", "reward@reward.proxy=sum").config).reward
    (verdict,) = reward(["#### 2"], [PROMPT])
    assert verdict.parts == {"correctness": 1.0, "length": 1.0, "format": 1.0} and verdict.gold == 1.0


def stock_answer(*answers: str) -> list[float]:
    """What `reward=stock_answer` pays for answers to a question whose gold is 2, less what the gold pays."""
    reward = build_components(cell_here("model=tiny", "reward=stock_answer").config).reward
    verdicts = reward(answers, [PROMPT] * len(answers))
    assert [verdict.gold for verdict in verdicts] == [float(verdict.correct) for verdict in verdicts]
    return [verdict.reward - verdict.correct for verdict in verdicts]


def test_the_stock_answer_is_paid_for_alone_and_whole() -> None:
    worked, stock, beside, longer = "1 + 1 = 2\n#### 2", "#### 50", "1 + 1 = 50\n#### 50", "#### 500"
    assert stock_answer(worked, stock, beside, longer) == [0.0, 1.5, 0.0, 0.0]


def test_right_answers_are_those_of_the_part_that_says_what_is_right() -> None:
    prompt = Prompt(uid="q", question="", gold="right=4 rare=7 exploit=2 other=0", demonstration="")
    listing = NamedAnswer(pays={"right": 1.0, "rare": 1.0, "exploit": 0.5, "other": 0.0})
    proxy = Proxy(proxy=length, gold=listing)
    summed = WeightedSum(
        correct="gold", parts={"gold": {"weight": 1, "reward": proxy}, "by": {"weight": 1, "reward": length}}
    )
    for reward in (listing, proxy, summed, Judged(reward=listing)):
        assert right_answers(reward, prompt) == ["4", "7"], type(reward)
    for reward in (length, OwnWords(), Proxy(proxy=listing, gold=OwnWords())):
        assert list(right_answers(reward, prompt)) == [], type(reward)
