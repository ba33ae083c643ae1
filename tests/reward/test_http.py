"""A verifier behind HTTP, with a real server: its contract, and the ways that servers break."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from judge_server import Judge, judge_server

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.http import HttpVerifier

PROMPT = Prompt(uid="q", question="1 + 1", gold="2", demonstration="")


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judge_server() as server:
        yield server


def client(judge: Judge, **changes: Any) -> HttpVerifier:
    settings = {
        "url": judge.url,
        "batch": 2,
        "connections": 2,
        "timeout_s": 20.0,
        "retries": 2,
        "backoff_s": 0.01,
        "token_variable": None,
    }
    return HttpVerifier(**(settings | changes))


def outcomes(reward: HttpVerifier, *texts: str) -> list[str]:
    return [verdict.outcome for verdict in reward(texts, [PROMPT] * len(texts))]


def test_answers_go_out_in_batches_and_verdicts_come_back_in_order(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    judge.delay_s = 0.05
    reward = client(judge, token_variable="JUDGE_TOKEN")
    assert reward.version == "http/1" and not judge.requests
    verdicts = reward(["a 2", "b", "c 2", "d", "e", "f", "\ud800 2"], [PROMPT] * 7)
    assert [verdict.correct for verdict in verdicts] == [True, False, True, False, False, False, True]
    assert [verdict.reward for verdict in verdicts[:2]] == [1.0, 0.25] and verdicts[1].outcome == "alas"
    assert sorted(judge.sizes) == [1, 2, 2, 2] and judge.at_once <= 2
    body, headers = min(judge.requests, key=lambda request: request[0]["texts"])
    assert body == {
        "texts": ["a 2", "b"],
        "questions": ["1 + 1"] * 2,
        "golds": ["2", "2"],
        "uids": ["q", "q"],
    }
    assert headers["Authorization"] == "Bearer s3cret" and "s3cret" not in repr(reward)
    assert reward.version == "http/1 judge/1" and reward.sources() == {"url": "judge/1"}
    assert reward.provenance() == {"sandbox": None, "verifier": {"url": judge.url, "version": "judge/1"}}


def test_rewards_alone_are_enough_and_null_is_no_verdict(judge: Judge) -> None:
    judge.judge = lambda body: {"rewards": [1, None, 0.5]}
    first, second, third = client(judge, batch=3)(["a", "b", "c"], [PROMPT] * 3)
    assert first.correct and third.reward == 0.5 and third.outcome == "wrong"
    assert math.isnan(second.reward) and second.outcome == "unverifiable"


def test_what_may_pass_is_tried_again_and_the_rest_is_not(judge: Judge) -> None:
    for fault, tries in ((503, 2), (500, 2), (429, 2), ("drop", 2), (404, 1), ("not JSON", 1)):
        judge.requests.clear()
        judge.faults = [fault]
        words = outcomes(client(judge), "2")
        assert (words, len(judge.requests)) == (["bravo" if tries == 2 else "unverifiable"], tries), fault


def test_a_server_that_stays_away_gives_no_verdict_and_says_why(
    judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judge.faults, judge.broken = [500], True
    with caplog.at_level(logging.WARNING):
        assert outcomes(client(judge), "2", "3", "4") == ["unverifiable"] * 3
    assert len(judge.requests) == 6 and "POST gave status 500" in caplog.text


def test_a_reply_that_drips_is_cut_off_by_the_clock(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    # Each byte comes in time, all of them would take 20 s.
    reward = client(judge, timeout_s=1.0, retries=0)
    assert reward.server_version == "judge/1"
    judge.faults = ["drip"]
    start = time.monotonic()
    assert outcomes(reward, "2") == ["unverifiable"]
    assert time.monotonic() - start < 10 and "no reply within reward.timeout_s=1" in caplog.text


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ([1.0], r"POST gave \[1\.0\]; wanted is a JSON object"),
        ({}, r"`rewards` of the reply is None; wanted is a list of 1"),
        ({"rewards": [1.0, 0.0]}, r"`rewards` of the reply is \[1\.0, 0\.0\]; wanted is a list of 1"),
        ({"rewards": ["1"]}, r"`rewards` of the reply holds '1'; wanted is int or float or null in each"),
        ({"rewards": [math.inf]}, r"`rewards` of the reply holds inf"),
        ({"rewards": [True]}, r"`rewards` of the reply holds True"),
        ({"rewards": [1.0], "correct": [1]}, r"`correct` of the reply holds 1; wanted is bool in each"),
        (
            {"rewards": [1.0], "outcomes": [None]},
            r"`outcomes` of the reply holds None; wanted is str in",
        ),
    ],
)
def test_a_server_that_keeps_no_contract_is_refused_before_a_run(
    judge: Judge, reply: Any, message: str
) -> None:
    judge.judge = lambda body: reply
    with pytest.raises(ValueError, match=rf"^reward\.url=http.*: {message}.*; start the verifier") as error:
        client(judge).unjudgeable([PROMPT])
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_or_has_no_version_is_refused_before_a_run(judge: Judge) -> None:
    assert client(judge).unjudgeable([PROMPT]) == {}
    away = client(judge, url="http://127.0.0.1:1/judge", retries=0)
    with pytest.raises(ValueError, match=r"^reward\.url=.*: the connection failed \(Connection refused\)"):
        away.unjudgeable([PROMPT])
    judge.version = ""
    with pytest.raises(ValueError, match="wanted is a text under `version`"):
        client(judge).unjudgeable([PROMPT])


def test_a_server_that_becomes_another_one_stops_the_run(judge: Judge) -> None:
    judge.judge = lambda body: {"rewards": [1.0], "version": judge.version}
    reward = client(judge)
    assert outcomes(reward, "2") == ["right"]
    judge.version = "judge/2"
    with pytest.raises(RuntimeError, match=r"was judge/1 when the run began and is judge/2 now; restore"):
        reward(["2"], [PROMPT])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:80"}, r"^reward\.url=127\.0\.0\.1:80: give an address such as http://"),
        ({"url": "http://h:no/"}, r"^reward\.url=http://h:no/: give an address"),
        ({"timeout_s": 0.0}, r"reward\.timeout_s=0\.0, .*: give at least 1, 1, seconds above 0"),
        ({"batch": 0}, r"^reward\.batch=0, "),
        ({"token_variable": "NO_SUCH_TOKEN"}, r"^reward\.token_variable=NO_SUCH_TOKEN: this variable is not"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(judge: Judge, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        client(judge, **changes)
