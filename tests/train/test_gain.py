"""The gain of a run's greedy answers, against scipy's t test."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from mirrorpo.train.gain import gain_line


def rows(verdicts: str) -> Sequence[Mapping[str, object]]:
    """One row for each letter, r right and w wrong; a blank is a question that was not asked."""
    return [
        {"uid": f"q{index}", "right": verdict == "r"}
        for index, verdict in enumerate(verdicts)
        if verdict != " "
    ]


def test_the_interval_is_students_of_the_differences_question_by_question() -> None:
    before, after = "rrwwwwrwrw", "rwrrrwrwwr"
    gaps = np.array([float(a == "r") - float(b == "r") for b, a in zip(before, after, strict=True)])
    expected = stats.ttest_1samp(gaps, 0.0).confidence_interval()
    assert gain_line(rows(before), rows(after)) == (
        f"greedy gain +20.0 points [{100 * expected.low:.1f}, {100 * expected.high:.1f}] over 10 questions, "
        "4 turned right, 2 turned wrong"
    )


def test_questions_of_one_evaluation_alone_do_not_count() -> None:
    assert gain_line(rows("rw w"), rows("rr  ")).endswith("over 2 questions, 1 turned right, 0 turned wrong")
    assert gain_line(rows("r"), rows("w")) == (
        "greedy gain -100.0 points over 1 questions, 0 turned right, 1 turned wrong"
    )
    assert gain_line(rows("r "), rows(" r")) == ""
