import sys
from pathlib import Path

import pytest
from planted import manifest, write_run
from scipy import stats

from analysis.__main__ import main
from analysis.data.export import load
from analysis.report.area_table import area_table
from analysis.stats.intervals import Interval
from analysis.study.area import Areas, areas, expectations, holds
from analysis.study.study import study

LEVELS = {"uniform": 0.5, "better": 0.7, "worse": 0.3, "same": 0.5}


def write_curves(root: Path) -> Path:
    """Three seeds of four arms, whose training reward wavers around a level of its own."""
    for arm, level in LEVELS.items():
        for seed in range(3):
            noise = 0.01 * ((seed + len(arm)) % 3 - 1)
            rows = [
                {
                    "step": step,
                    "reward/mean": level + noise + (0.1 if step % 2 else -0.1),
                    "credit/all_tokens_answer": 0.1,
                    "credit/all_gradient_answer": 0.2 * step,
                }
                for step in range(1, 5)
            ]
            accuracy = {"eval/greedy_accuracy": 0.5, "eval/questions": 40}
            rows = [{"step": 0, **accuracy}, *rows[:-1], rows[-1] | accuracy]
            write_run(
                root / f"weighting={arm}" / f"seed={seed}", manifest(seed, {"weighting": arm}), rows, {}
            )
    return root


def test_area_says_which_expectations_hold_by_its_exit_status(tmp_path, monkeypatch, capsys) -> None:
    root = str(write_curves(tmp_path / "sweep"))

    def status(*expected: str) -> int:
        arguments = [part for text in expected for part in ("--expect", text)]
        monkeypatch.setattr(sys, "argv", ["analysis", "area", root, *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    held = ("better > uniform", "worse < uniform", "same !> uniform", "same !< uniform", "better > worse")
    assert status() == 0
    assert status(*held) == 0
    printed = capsys.readouterr().out
    gradient = next(line for line in printed.splitlines() if line.startswith("answer")).split()
    # Of the first, second and last of four steps.
    assert gradient == ["answer", "10.0", "20.0", "40.0", "80.0"]
    assert "+0.200" in printed and "FAILS" not in printed and "reward/mean" in printed
    for wrong in ("better < uniform", "same > uniform", "better !> uniform"):
        assert status(*held, wrong) == 1, wrong
        assert capsys.readouterr().out.count("FAILS") == 1


def test_differences_are_paired_over_the_seeds_that_both_arms_have() -> None:
    made = Areas(metric="reward/mean", by_arm={"a": {0: 0.5, 1: 0.7, 2: 0.9}, "b": {0: 0.4, 1: 0.6, 3: 0.0}})
    gap = made.difference("a", "b")
    # Two seeds that agree do not say how far a third would lie.
    assert gap.estimate == pytest.approx(0.1) and (gap.low, gap.high) == (float("-inf"), float("inf"))
    apart = Areas(metric="reward/mean", by_arm={"a": {0: 0.5, 1: 0.8}, "b": {0: 0.4, 1: 0.6}}).difference(
        "a", "b"
    )
    assert apart.high - apart.estimate == pytest.approx(stats.t.ppf(0.975, 1) * 0.05)
    with pytest.raises(ValueError, match="'c' is no arm"):
        made.difference("a", "c")


def test_an_expectation_is_of_the_interval_and_not_of_the_mean() -> None:
    above, around, single = Interval(0.1, 0.05, 0.15), Interval(0.1, -0.1, 0.3), Interval(1, -1e999, 1e999)
    higher, lower, not_higher, not_lower = expectations(["a > b", "a < b", "a !> b", "a !< b"])
    assert [holds(higher, gap) for gap in (above, around, single)] == [True, False, False]
    assert [holds(not_higher, gap) for gap in (above, around, single)] == [False, True, True]
    assert not holds(lower, above) and holds(not_lower, above)
    with pytest.raises(ValueError, match="expect='a = b'"):
        expectations(["a = b"])


def test_an_area_is_the_one_of_the_endpoint_and_may_be_named_as_it_is(tmp_path: Path) -> None:
    """Evaluations at steps 0, 1 and 4: a mean of the three values is no area."""
    for arm, last in (("uniform", 0.2), ("better", 1.0)):
        for seed in range(2):
            rows = [
                {"step": step, "reward/mean": 0.1 * step}
                | ({"eval/greedy_accuracy": value, "eval/questions": 40} if value is not None else {})
                for step, value in enumerate((0.0, 0.2 + 0.1 * seed, None, None, last))
            ]
            folder = tmp_path / "sweep" / f"weighting={arm}" / f"seed={seed}"
            write_run(folder, manifest(seed, {"weighting": arm}), rows, {})
    made = study(load(str(tmp_path / "sweep")))
    for metric in ("eval/greedy_accuracy", "auc:eval/greedy_accuracy", "accuracy", "auc:accuracy"):
        found = areas(made, metric)
        assert found.metric == "eval/greedy_accuracy"
        # (0.1 * 1 + 0.6 * 3) / 4, and with the other seed (0.15 + 0.65 * 3) / 4.
        assert found.by_arm["better"] == pytest.approx({0: 0.475, 1: 0.525})
        for run in made.design.runs:
            assert found.by_arm[run.arm][run.seed] == made.value(run, "auc:eval/greedy_accuracy")
        assert "linear between evaluations" in area_table(made, found).foot[0]
    assert areas(made, "reward/mean") == areas(made, "auc:reward/mean")
    assert (
        area_table(made, areas(made, "reward/mean")).foot[0].startswith("Mean of reward/mean over the steps")
    )
    for metric, error in (
        ("last10:reward/mean", "metric=last10:reward/mean: no area; name reward/mean"),
        ("steps_to:0.5:reward/mean", "no area; name reward/mean"),
        ("auc:reward/meen", "metric=auc:reward/meen: no run has reward/meen; did you mean reward/mean"),
    ):
        with pytest.raises(ValueError, match=error):
            areas(made, metric)
