"""The importance table on truths written by hand."""

import json
from pathlib import Path

import pytest

from analysis.study.span_value import agreement, by_kind, importance


def span(uid: str, kind: str, answer: float, downstream: float, effect: float, last: bool = False) -> dict:
    # The direct drop is the answer's, but for its size.
    drops = {"answer": answer, "downstream": downstream, "direct": answer / 2}
    return {"uid": uid, "kind": kind, "last": last, **drops, "before": 0.5, "after": 0.5 + effect}


def write(run: Path, rows: list[dict]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "credit_truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Downstream drops rank as the effect does, answer drops the other way round."""
    rows = []
    for uid in map(str, range(5)):
        rows += [
            span(uid, "scaffolding", 3.0, -0.5, 0.0),
            span(uid, "calculation", 2.0, 4.0, 0.25),
            span(uid, "calculation", 1.0, 6.0, 0.5, last=True),
        ]
    return write(tmp_path, rows)


def test_means_and_distractors_by_kind_and_place(planted: Path) -> None:
    rows = {(row["kind"], row["place"]): row for row in by_kind(planted).to_dict("records")}
    assert set(rows) == {
        ("calculation", "all"),
        ("calculation", "not last"),
        ("calculation", "last"),
        ("scaffolding", "all"),
    }
    assert rows["calculation", "all"]["downstream"] == pytest.approx((5.0, 5.0, 5.0))
    assert rows["calculation", "last"]["effect"] == pytest.approx((0.5, 0.5, 0.5))
    assert (
        rows["scaffolding", "all"]["downstream < -0.01"].estimate == 1.0
        and rows["scaffolding", "all"]["answer < -0.01"].estimate == 0.0
    )


def test_a_planted_order_is_found_with_its_sign(planted: Path) -> None:
    rows = {row["measure"]: row for row in agreement(planted).to_dict("records")}
    assert (
        rows["downstream"]["calculation first"].estimate == 1.0
        and rows["answer"]["calculation first"].estimate == 0.0
    )
    assert rows["downstream"]["rank with effect"].estimate == pytest.approx(1.0) and rows["answer"][
        "rank with effect"
    ].estimate == pytest.approx(-1.0)
    assert rows["downstream"]["pairs"] == 10
    assert rows["direct"]["rank with answer"].estimate == pytest.approx(1.0) and rows["downstream"][
        "rank with answer"
    ].estimate == pytest.approx(-1.0)


def test_a_span_that_made_it_worse_has_a_size_and_the_opposite_rank(tmp_path: Path) -> None:
    run = write(
        tmp_path, [span("0", "calculation", 1.0, 9.0, -0.5), span("0", "calculation", 1.0, 1.0, 0.25)]
    )
    row = agreement(run).to_dict("records")[1]
    assert (row["rank with effect"].estimate, row["rank with size"].estimate) == (-1.0, 1.0)


def test_ties_are_half_and_a_completion_in_which_nothing_varies_has_no_rank(tmp_path: Path) -> None:
    run = write(tmp_path, [span("0", "calculation", 0.0, 1.0, 0.0), span("0", "scaffolding", 0.0, 2.0, 0.0)])
    rows = {row["measure"]: row for row in agreement(run).to_dict("records")}
    assert (
        rows["answer"]["calculation first"].estimate == 0.5
        and rows["downstream"]["rank with effect"] == "no variation"
    )


def test_the_text_holds_estimates_with_their_intervals(planted: Path) -> None:
    assert "5.00 [5.00, 5.00]" in importance(planted)


def test_a_run_that_was_not_measured_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="credit_truth"):
        by_kind(tmp_path)
    with pytest.raises(ValueError, match="holds no span"):
        by_kind(write(tmp_path, []))
    old = span("0", "calculation", 1.0, 1.0, 0.0)
    del old["direct"]
    with pytest.raises(ValueError, match="no direct drop, it is of an older version"):
        by_kind(write(tmp_path, [old]))
