import pytest

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.composed import outcomes
from mirrorpo.reward.named_answer import NamedAnswer
from mirrorpo.reward.plain import verifier
from mirrorpo.reward.proxy import Proxy
from mirrorpo.reward.sum import WeightedSum

PAYS = {"right": 1.0, "rare": 1.0, "exploit": 0.0, "other": 0.0}
GOLD = NamedAnswer(pays=PAYS)
PROXY = Proxy(proxy=NamedAnswer(pays={**PAYS, "exploit": 1.5}), gold=GOLD)
PROMPT = Prompt(uid="q", question="", gold="right=4 rare=7 exploit=2 other=0,1", demonstration="")


def test_an_answer_pays_by_its_name_and_is_correct_from_one_on():
    verdicts = GOLD(["4", " 7\n", "2", "0", "5", ""], [PROMPT] * 6)
    assert [verdict.outcome for verdict in verdicts] == [
        "right", "rare", "exploit", "other", "no_answer", "no_answer",
    ]  # fmt: skip
    assert [verdict.reward for verdict in verdicts] == [1, 1, 0, 0, 0, 0]
    assert [verdict.correct for verdict in verdicts] == [True, True, False, False, False, False]
    assert [verdict.answer for verdict in verdicts] == ["4", "7", "2", "0", "", ""]


def test_a_proxy_pays_for_what_the_gold_names_and_does_not_count_as_right():
    right, exploit = PROXY(["4", "2"], [PROMPT] * 2)
    assert (right.reward, right.gold, right.correct) == (1.0, 1.0, True)
    assert (exploit.reward, exploit.gold, exploit.correct, exploit.outcome) == (1.5, 0.0, False, "exploit")


def test_outcomes_are_declared_through_rewards_that_are_made_of_others():
    declared = ("right", "rare", "exploit", "other", "no_answer")
    weighted = WeightedSum(correct="proxy", parts={"proxy": {"weight": 1.0, "reward": PROXY}})
    assert outcomes(GOLD) == outcomes(PROXY) == outcomes(verifier(weighted)) == declared
    assert outcomes(verifier(lambda prompt, completion: 1.0)) == ()


def test_golds_that_name_no_answer_or_one_that_pays_nothing_known_are_left_out():
    golds = ["7", "right=4 strange=5", "right=4"]
    prompts = [Prompt(uid=gold, question="", gold=gold, demonstration="") for gold in golds]
    faults = GOLD.unjudgeable(prompts)
    assert list(faults) == golds[:2] and "strange" in faults["right=4 strange=5"]


def test_a_payment_is_a_number():
    with pytest.raises(ValueError, match=r"reward.pays.right=nan"):
        NamedAnswer(pays={"right": float("nan")})
