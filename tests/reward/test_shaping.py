"""The public code's additions, by hand; `conf/shaping/public.yaml` has their numbers."""

import math
from dataclasses import replace

import pytest
from cli import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mirrorpo.reward.shaping import PublicShaping

PUBLIC: PublicShaping = instantiate(
    OmegaConf.load(ROOT / "conf" / "shaping" / "public.yaml"), _convert_="all"
)
LONG = "x" * 200


@pytest.mark.parametrize(
    ("text", "share", "outcome", "reward"),
    [
        (LONG, 1.0, "passed", 1.0),
        (LONG, 2 / 3, "failed", 2 / 3),
        (LONG, 0.0, "failed", -0.10),
        (LONG, 0.0, "exception", -0.15),
        (LONG, 0.0, "syntax_error", -0.15),
        (LONG, 0.0, "time_out", -0.25),
        # Some tests passed, and then it ran out of time: the time-out counts.
        (LONG, 1 / 3, "time_out", -0.25),
        (LONG, 1 / 3, "exception", 1 / 3),
        ("x" * 99, 0.5, "failed", 0.52),
        ("x" * 100, 0.5, "failed", 0.51),
        ("x" * 150, 0.5, "failed", 0.5),
        ("x" * 99, 0.0, "failed", -0.10),
        (LONG + "print(1)", 0.5, "failed", 0.48),
        (LONG + "```print(1)```", 0.5, "failed", 0.46),
        (LONG + "é", 0.5, "failed", 0.47),
    ],
)
def test_one_completion(text: str, share: float, outcome: str, reward: float) -> None:
    assert PUBLIC([text], [share], [outcome]) == [pytest.approx(reward)]


def test_rewards_are_clipped() -> None:
    assert PUBLIC(["x"], [1.0], ["passed"]) == [1.0]
    assert replace(PUBLIC, time_out=-2.0)([LONG], [0.0], ["time_out"]) == [-0.5]


def test_a_later_copy_costs() -> None:
    assert PUBLIC([LONG, LONG + "y", LONG], [0.5, 0.5, 0.5], ["failed"] * 3) == [
        pytest.approx(r) for r in (0.5, 0.5, 0.48)
    ]


def test_a_group_without_variance_is_ranked_by_length_the_shortest_first() -> None:
    texts = [LONG + "yy", LONG, LONG + "y"]
    assert PUBLIC(texts, [0.5] * 3, ["failed"] * 3) == [pytest.approx(r) for r in (0.485, 0.515, 0.5)]
    assert PUBLIC(texts, [0.5, 0.5, 0.0], ["failed"] * 3) == [pytest.approx(r) for r in (0.5, 0.5, -0.1)]


def test_what_has_no_verdict_keeps_none_and_ranks_with_nobody() -> None:
    rewards = PUBLIC([LONG, LONG + "y", "z"], [0.5, 0.5, math.nan], ["failed", "failed", "unverifiable"])
    assert rewards[:2] == [pytest.approx(0.515), pytest.approx(0.485)] and math.isnan(rewards[2])
