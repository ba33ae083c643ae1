"""What single runs gained, with intervals over the same questions."""

import sys
from pathlib import Path

import numpy as np
import pytest
from planted import answers, follow, manifest, metrics, write_run, write_sweep
from scipy import stats

from analysis.__main__ import main
from analysis.data.export import load
from analysis.report.accuracy_tables import before_after
from analysis.report.gains import gains, of_runs
from analysis.report.sections import findings, head
from analysis.report.tables import all_tables
from analysis.study.study import Study, study
from mirrorpo.train.gain import gain_line

BEFORE = [index % 2 == 0 for index in range(40)]
# Nine of the twenty wrong ones turn right, two right ones turn wrong.
AFTER = [(index < 18) if index % 2 else index > 3 for index in range(40)]


def one_arm(root: Path, seeds: int = 1, last: int = 4) -> Study:
    for seed in range(seeds):
        after = [right if index != 39 - seed else not right for index, right in enumerate(AFTER)]
        evaluated = {0: answers(BEFORE), last: answers(after)}
        rows = follow(metrics(4, [0.5, 0.5]), evaluated)
        write_run(root / f"seed={seed}", manifest(seed), rows, evaluated)
    return study(load(str(root)))


def test_a_single_run_reports_its_gain_first_and_in_its_findings(tmp_path: Path) -> None:
    made = one_arm(tmp_path)
    ((name, gain),) = gains(made)
    after = [right if index != 39 else not right for index, right in enumerate(AFTER)]
    gaps = np.array(after, dtype=float) - np.array(BEFORE, dtype=float)
    expected = stats.ttest_1samp(gaps, 0.0).confidence_interval()
    assert name == "seed 0" and gain.questions == 40 and (gain.won, gain.lost) == (10, 2)
    assert tuple(gain.interval) == pytest.approx((gaps.mean(), expected.low, expected.high))
    text = (
        f"50.0% → 70.0%: +20.0 points [{100 * expected.low:.1f}, {100 * expected.high:.1f}] over 40 questions"
    )
    assert str(gain) == f"{text}, 10 turned right, 2 turned wrong"
    assert text in head(made, "single").split("<nav>")[0] and text in findings(made)
    # The terminal says the same number.
    assert gain_line(answers(BEFORE), answers(after)) == (
        f"greedy gain +20.0 points [{100 * expected.low:.1f}, {100 * expected.high:.1f}] over 40 questions, "
        "10 turned right, 2 turned wrong"
    )


def test_seeds_of_one_arm_have_a_gain_together_for_new_seeds_and_questions(tmp_path: Path) -> None:
    together, *alone = gains(one_arm(tmp_path, seeds=3))
    assert together[0] == "3 seeds" and together[1].seeds == 3 and len(alone) == 3
    assert together[1].interval.estimate == pytest.approx(
        np.mean([gain.interval.estimate for _, gain in alone])
    )
    assert "and 3 seeds" in str(together[1])


def test_intervals_of_gains_stand_beside_runs_and_not_beside_a_comparison(tmp_path: Path) -> None:
    alone = one_arm(tmp_path / "single")
    (row,) = next(table for table in all_tables(alone) if table.name == "before_after").rows
    assert row[6].text == "+20.0" and row[6].detail.startswith("[")
    compared = study(load(str(write_sweep(tmp_path / "sweep"))))
    assert gains(compared) == [] and "class='gain'" not in head(compared, "sweep")
    table = next(table for table in all_tables(compared) if table.name == "before_after")
    assert not any(row[6].detail for row in table.rows)
    assert all(row[6].detail for row in before_after(compared, of_runs(compared)).rows)


def test_a_run_without_two_evaluations_has_no_gain(tmp_path: Path) -> None:
    evaluated = {4: answers(BEFORE)}
    write_run(tmp_path / "seed=0", manifest(0), follow(metrics(4, [0.5, 0.5]), evaluated), evaluated)
    made = study(load(str(tmp_path)))
    assert gains(made) == [] and "No run has two evaluations" in findings(made)
    assert gain_line([], answers(BEFORE)) == ""


def test_before_after_prints_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_arm(tmp_path / "single")
    monkeypatch.setattr(sys, "argv", ["analysis", "before_after", str(tmp_path / "single")])
    main()
    assert "+20.0 [" in capsys.readouterr().out
