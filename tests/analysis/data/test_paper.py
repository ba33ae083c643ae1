"""The published numbers as data."""

import pytest

from analysis.data import paper


def test_every_number_has_a_known_mark_and_a_source() -> None:
    for number in paper.NUMBERS:
        assert number.mark in paper.MARKS and number.source, number
        assert number.paper in paper.TITLES and number.arm in paper.SAME, number
        assert (number.low is None) == (number.high is None), number
        assert number.low is not None or number.note, number


def test_no_number_stands_twice() -> None:
    keys = [(number.benchmark, number.axis, number.arm, number.quantity) for number in paper.NUMBERS]
    assert len(keys) == len(set(keys))


DIFFERENCES = (
    ("divergence", "probl2", "kl", "gsm8k", (5.5, 5.5, "V")),
    ("divergence", "probl2", "kl_k3", "arithmetic", (5.5, 5.5, "V")),
    ("divergence", "neural_mirror_learned", "kl", "mbpp", (1.0, 1.0, "I")),
    ("weighting", "counterfactual", "uniform", "arithmetic", (0.8, 1.1, "V")),
    ("weighting", "counterfactual", "random_span", "arithmetic", None),
    ("weighting", "counterfactual_inverted", "uniform", "arithmetic", None),
    ("divergence", "tsallis", "kl", "gsm8k", None),
    ("divergence", "probl2", "none", "gsm8k", None),
    ("divergence", "probl2", "kl", "elsewhere", None),
)


def test_published_differences() -> None:
    for *arms, expected in DIFFERENCES:
        assert paper.gain(*arms) == expected, arms


def test_the_fall_of_the_spread_is_the_posts_seventy_percent() -> None:
    spread = {number.arm: number.low for number in paper.NUMBERS if number.quantity == "spread"}
    assert 1 - spread["neural_mirror_learned"] / spread["kl"] == pytest.approx(0.7, abs=0.02)
