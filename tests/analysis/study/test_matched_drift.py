"""Where runs pass a drift, by what is logged each step."""

import pytest
from cli import ROOT

from analysis.data.export import load
from analysis.study.matched_drift import AGAIN, COARSE, EARLY, matched_drift, passage
from analysis.study.study import study


def test_first_last_and_crossings_are_of_the_logged_steps() -> None:
    drifts = [0.0, 0.9, 1.1, 0.95, 0.9, 1.05, 1.2]
    made = passage(range(7), drifts, [0, 2, 4, 6], [0.5, 0.6, 0.7, 0.8], 1.0)
    assert (made.first, made.last, made.crossings) == (2, 5, 3) and made.fault == ""
    assert made.scores == pytest.approx((0.6, 0.75))
    # One that ends below is there at its end.
    below = passage(range(4), [0.0, 0.9, 1.1, 0.95], [0, 1, 2, 3], [0.5, 0.6, 0.7, 0.8], 1.0)
    assert (below.first, below.last, below.crossings) == (2, 3, 2)


def test_what_is_not_known_is_no_number() -> None:
    steps = range(13)
    early = passage(steps, [0.1 * step for step in steps], [0, 6, 12], [0.5, 0.7, 0.8], 0.3)
    assert early.fault == EARLY and early.first == 3
    # From 2 to 12 there are five evaluations more.
    wandering = [0.0, 0.9, *[1.0, 0.9] * 5, 1.0]
    assert passage(steps, wandering, range(0, 13, 2), [0.5] * 7, 1.0).fault == AGAIN
    assert passage(steps, [0.0] * 4 + [2.0] * 9, range(0, 13, 2), [0.5] * 7, 1.0).fault == COARSE


def test_the_published_runs_at_equal_drift_by_first_and_by_last_crossing() -> None:
    # What a chord between evaluations gave as -5.8 [-7.6, -3.9].
    made = matched_drift(study(load(str(ROOT / "docs" / "results" / "tiny_gbmpo" / "export"))))
    assert made is not None and made.at == pytest.approx(0.0239, abs=5e-5)
    differences = made.differences("none", "kl")
    assert differences is not None
    first, last = (interval.scaled(100) for interval in differences)
    assert (first.estimate, first.low, first.high) == pytest.approx((-9.9, -17.0, -2.8), abs=0.05)
    assert last.estimate == pytest.approx(-14.8, abs=0.05)
    # Neither is printed: those steps lie between the start and the first evaluation.
    assert set(made.faults) == {EARLY} and not made.known("none") and not made.known("kl")
    assert [run.crossings for run in made.passages["kl"].values()] == [1, 2, 1, 3, 1]
