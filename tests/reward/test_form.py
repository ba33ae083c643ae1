"""Rewards of form: exactly what each says, of texts that are empty, long and hostile."""

import math
from typing import Any

import pytest
import yaml
from cli import ROOT

from mirrorpo.core.batch import Prompt
from mirrorpo.reward.form import Format, Length, ScriptShare, StopWordShare

ENGLISH = StopWordShare(words=["the", "is", "Of"], typical=0.5)


def rewards(reward: Any, *texts: str) -> list[float]:
    prompt = Prompt(uid="q", question="", gold="", demonstration="")
    return [verdict.reward for verdict in reward(texts, [prompt] * len(texts))]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (Length(unit="characters", full=2, nothing=4), {"": 1.0, "ab": 1.0, "abc": 0.5, "abcd": 0.0}),
        (Length(unit="words", full=0, nothing=2), {" \n": 1.0, "a\tb": 0.0, "a": 0.5, "a b c": 0.0}),
        (Format(pattern="b", match="anywhere"), {"abc": 1.0, "": 0.0}),
        (Format(pattern="b+", match="all"), {"bb": 1.0, "bb\n": 0.0, "abb": 0.0}),
        (ScriptShare(scripts=["LATIN"]), {"": 1.0, "12 + 3": 1.0, "aя": 0.5, "é": 1.0, "中文": 0.0}),
        (ScriptShare(scripts=["CJK", "HIRAGANA"]), {"中の": 1.0, "カ中": 0.5}),
        (ENGLISH, {"": 1.0, "7": 1.0, "the cat": 1.0, "THE a b c": 0.5, "der Hund": 0.0, "of the": 1.0}),
    ],
    ids=["characters", "words", "anywhere", "all", "latin", "japanese", "stop words"],
)
def test_a_reward_of_form_is_what_it_says(reward: Any, expected: dict[str, float]) -> None:
    assert dict(zip(expected, rewards(reward, *expected), strict=True)) == expected
    hostile = ("\ud800", "\x00", "a" * 100_000, "\u0301", "𝔸")
    assert all(0 <= value <= 1 and not math.isnan(value) for value in rewards(reward, *hostile))
    assert reward.version.count("/") >= 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Length(unit="words", full=5, nothing=5), r"reward\.full=5, reward\.nothing=5: .*full < not"),
        (lambda: Format(pattern="(", match="all"), r"reward\.pattern='\(': .* give a regular expression"),
        (lambda: ScriptShare(scripts=["LATTIN"]), r"reward\.scripts=\['LATTIN'\]: .*'LATTIN'; give words"),
        (lambda: ScriptShare(scripts=[]), r"reward\.scripts=\[\]: give a list such as \[LATIN\]"),
        (lambda: StopWordShare(words=["a"], typical=0.0), r"reward\.typical=0\.0: give a list of words"),
    ],
)
def test_a_setting_that_says_nothing_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_the_words_that_ship_judge_a_text() -> None:
    settings = yaml.safe_load((ROOT / "conf" / "reward" / "stop_words.yaml").read_text())
    shipped = StopWordShare(words=settings["words"], typical=settings["typical"])
    assert rewards(shipped, "It is on the way", "le chat") == [1.0, 0.0]
