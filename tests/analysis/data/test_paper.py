"""The published numbers as data."""

import pytest

from analysis.data import paper


def test_every_number_has_a_known_mark_and_a_source() -> None:
    for one in paper.NUMBERS:
        assert one.mark in paper.MARKS and one.source and one.paper in paper.TITLES and one.arm in paper.SAME
        assert (one.low is None) == (one.high is None) and (one.low is not None or one.note)


def test_no_number_stands_twice() -> None:
    keys = [(one.benchmark, one.axis, one.arm, one.quantity) for one in paper.NUMBERS]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("axis", "choice", "baseline", "dataset", "expected"),
    [
        ("divergence", "probl2", "kl", "gsm8k", (5.5, 5.5, "V")),
        ("divergence", "probl2", "kl_k3", "arithmetic", (5.5, 5.5, "V")),
        ("divergence", "neural_mirror_learned", "kl", "mbpp", (1.0, 1.0, "I")),
        ("weighting", "counterfactual", "uniform", "arithmetic", (0.8, 1.1, "V")),
        ("weighting", "counterfactual", "random_span", "arithmetic", None),
        ("weighting", "counterfactual_inverted", "uniform", "arithmetic", None),
        ("divergence", "tsallis", "kl", "gsm8k", None),
        ("divergence", "probl2", "none", "gsm8k", None),
        ("divergence", "probl2", "kl", "elsewhere", None),
    ],
)
def test_published_differences(
    axis: str, choice: str, baseline: str, dataset: str, expected: tuple | None
) -> None:
    assert paper.gain(axis, choice, baseline, dataset) == expected


def test_the_fall_of_the_spread_is_the_posts_seventy_percent() -> None:
    spread = {one.arm: one.low for one in paper.NUMBERS if one.quantity == "spread"}
    assert 1 - spread["neural_mirror_learned"] / spread["kl"] == pytest.approx(0.7, abs=0.02)
