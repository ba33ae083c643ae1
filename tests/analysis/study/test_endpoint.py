"""Endpoints against hand-computed numbers; an unknown metric is an error."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cli import ROOT
from planted import answers, follow, manifest, metrics, write_run

from analysis.__main__ import main
from analysis.data.export import Export, load
from analysis.report.endpoint_table import endpoint_table
from analysis.report.strata_table import strata_tables
from analysis.report.variance_table import variance
from analysis.study.comparison import points
from analysis.study.endpoint import endpoint, read_endpoint, run_values
from analysis.study.strata import start, stratum_rows
from analysis.study.study import study

STEPS = 8
# At the start questions 0 to 23 are right; then `none` forgets two of them and learns more of the others.
START, KEPT, LEARNED = 24, {"kl": 24, "none": 22}, {"kl": 4, "none": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("endpoints") / "sweep"
    for arm in KEPT:
        for seed in range(3):
            given = {}
            for step in range(STEPS + 1):
                there = step / STEPS
                kept = START - round(there * (START - KEPT[arm]))
                learned = round(there * (LEARNED[arm] + seed))
                right = [i < kept or START <= i < START + learned for i in range(60)]
                given[step] = answers(right)
                for row in given[step]:
                    row["completion"] = "1 + 1 = 2\n" * (1 + int(row["uid"][-4:]) % 2) + row["completion"]
            rows = follow(metrics(STEPS, [0.5] * (STEPS + 1), questions=60), given)
            for row in rows[1:]:
                row["reward/mean"] = (0.1 if arm == "kl" else 0.15) * row["step"] + 0.01 * seed
                # Counts of verdicts are logged where there are some.
                row["outcome/right"] = 10.0
                row["budget/tokens"] = 5.0 * row["step"]
                row |= {"outcome/no_answer": 4.0} if row["step"] <= (4 if arm == "kl" else 2) else {}
            made = manifest(seed, {"divergence": arm}, **{"config.steps": STEPS, "config.eval_questions": 60})
            write_run(root / f"divergence={arm}" / f"seed={seed}", made, rows, given)
    return root


@pytest.fixture(scope="module")
def export(root: Path) -> Export:
    return load(str(root))


def by_arm(export: Export, name: str) -> dict[str, dict[int, float]]:
    made = study(export)
    return {arm: made.scores(arm, metric=name) for arm in ("kl", "none")}


def test_endpoints_of_a_training_metric_by_hand(export: Export) -> None:
    assert by_arm(export, "auc:reward/mean")["kl"] == pytest.approx({0: 0.45, 1: 0.46, 2: 0.47})
    assert by_arm(export, "reward/mean") == by_arm(export, "auc:reward/mean")
    assert by_arm(export, "last2:reward/mean")["none"][0] == pytest.approx(0.15 * 7.5)
    # 0.1 step >= 0.5 at step 5; with 0.15 at step 4.
    steps = by_arm(export, "steps_to:0.5:reward/mean")
    assert steps["kl"][0] == 5 and steps["none"][0] == 4
    # A run that never gets there counts with its last step.
    assert by_arm(export, "steps_to:1.0:reward/mean")["kl"] == {0: 8, 1: 8, 2: 8}
    made = study(export, metric="steps_to:0.5:reward/mean")
    assert made.endpoint is not None and made.endpoint.higher_is_better is False
    cells = {str(row[0]): str(row[1]) for row in endpoint_table(made, made.endpoint).rows}
    assert cells["none"].endswith("3 of 3 get there") and made.metric == "eval/greedy_accuracy"


@pytest.mark.parametrize("goal", ["0.12345678", "0.7", "1", "12345678", "1e-05", "-0.30000004"])
def test_a_threshold_is_named_with_all_its_digits(goal: str, export: Export) -> None:
    made = read_endpoint(f"steps_to:{goal}:reward/mean")
    # Its name is the key by which its values are computed.
    assert str(made) == f"steps_to:{goal}:reward/mean" and read_endpoint(str(made)) == made
    assert f"at or above {goal};" in made.description


def test_a_margin_is_named_with_all_its_digits(export: Export) -> None:
    assert points(0.0123456789) == "1.23456789 points" and points(0.07) == "7 points"
    with pytest.raises(ValueError, match=r"margin=100\.0000001: points within"):
        study(export).with_margin(100.0000001)


def test_what_is_logged_where_it_is_not_zero_has_zeros(export: Export) -> None:
    # 4 in four of eight steps, and in two of eight; over the steps that have it, both would be 4.
    assert set(by_arm(export, "outcome/no_answer")["kl"].values()) == {2.0}
    assert set(by_arm(export, "outcome/no_answer")["none"].values()) == {1.0}
    assert study(export).differences(metric="outcome/no_answer")["none"].interval.estimate == -1.0
    # A step before training has no outcomes at all, and so no zero.
    assert export.metric("outcome/no_answer")["step"].min() == 1


def test_the_area_under_accuracy_is_of_questions_and_of_seeds(export: Export) -> None:
    made = study(export)
    ours, _ = made.pair("none", metric="auc:eval/greedy_accuracy")
    assert ours.shape == (3, 60)
    runs = run_values(export, read_endpoint("auc:eval/greedy_accuracy"))
    names = [made.runs("none")[seed].name for seed in range(3)]
    assert ours.mean(axis=1) == pytest.approx([runs[name] for name in names])
    curve = made.curve("eval/greedy_accuracy")
    of_run = curve[curve["run"] == names[0]]["eval/greedy_accuracy"].to_numpy()
    assert runs[names[0]] == pytest.approx((of_run[:-1] + of_run[1:]).mean() / 2)
    assert made.differences(metric="auc:eval/greedy_accuracy")["none"].over == "seeds and questions"


def test_an_unknown_metric_is_an_error_with_the_way_out(
    root: Path, export: Export, monkeypatch, capsys
) -> None:
    def outcome(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["analysis", "compare", str(root), *arguments])
        try:
            main()
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    assert "did you mean reward/mean" in outcome("--metric", "reward/meen")
    assert "no run has eval/avg@9" in outcome("--metric", "auc:eval/avg@9")
    assert "write NAME, auc:NAME" in outcome("--metric", "auv:reward/mean")
    assert "is no number" in outcome("--metric", "steps_to:1e:reward/mean")
    printed = outcome("--metric", "reward/mean", "--margin", "0.5")
    assert "auc:reward/mean by divergence" in printed
    assert "Equal within 0.5" in printed and "error" not in printed
    at_budget = outcome("--metric", "reward/mean", "--budget", "steps=4")
    # Half of the way: 0.1 (1 + 2 + 3 + 4) / 4.
    assert "up to an equal budget of steps" in at_budget and "0.260" in at_budget
    with pytest.raises(ValueError, match="runs one by one are shown by a share"):
        study(export, metric="reward/mean", compared=False)
    with pytest.raises(ValueError, match="need 8: evaluate more often"):
        few = {step for step in (0, 4, 8)}
        metrics_table = export.metrics.filter(np.isin(export.metrics["step"].to_numpy(), list(few)))
        run_values(
            Export(export.runs, metrics_table, export.questions, {}),
            read_endpoint("steps_to:0.5:eval/greedy_accuracy"),
        )
    assert endpoint("auc:accuracy", "eval/greedy_accuracy", export.names) == read_endpoint(
        "auc:eval/greedy_accuracy"
    )


def test_forgetting_and_learning_are_seen_by_the_start_models_answers(export: Export) -> None:
    made = study(export)
    known = start(made)
    assert known is not None
    strata = {entry.name: entry for entry in known.strata}
    assert {name: len(uids) for name, uids in strata["start's answers"].questions.items()} == {
        "right": 24,
        "wrong": 36,
    }
    rows = {(row.stratum, row.arm): row for row in stratum_rows(made, strata["start's answers"])}
    forgotten, learned = rows["right", "none"].gap, rows["wrong", "none"].gap
    assert forgotten is not None and forgotten.interval.estimate == pytest.approx(-2 / 24)
    assert learned is not None and learned.interval.estimate == pytest.approx(6 / 36)
    assert rows["right", "kl"].levels == [1.0] * 3 and forgotten.comparisons == 2
    assert list(strata["start's steps"].questions) == ["1 step", "2 steps"]
    tables = strata_tables(made)
    assert {table.name for table in tables} >= {"strata_start_answers_by_divergence"}
    assert variance(made) is not None


def test_the_committed_strata_are_those_of_the_issue() -> None:
    """None - kl: forgetting on what the start model had right, learning on what it had wrong."""
    rows = (ROOT / "docs/results/tiny_gbmpo/tables/strata_start_answers_by_divergence.md").read_text()
    none = [line for line in rows.splitlines() if "| none |" in line]
    assert "−1.5 [−3.2, 0.2]" in none[0] and "+4.8 [2.8, 6.8]" in none[1] and "better" in none[1]


def test_only_what_is_known_to_be_good_has_a_direction() -> None:
    good = (
        "reward/mean",
        "reward/gold",
        "reward/part/format",
        "outcome/right",
        "eval/gold",
        "auc:reward/mean",
    )
    neither = (
        "reward/gold_gap",
        "reward/gold_unverifiable",
        "reward/unverifiable/format",
        "reward/group_std",
    )
    neither = (*neither, "eval/unverifiable", "eval/gold_gap", "eval/questions", "eval/length", "drift/kl")
    for names, direction in ((good, True), (neither, None), (("eval/truncated",), False)):
        for name in names:
            assert read_endpoint(name).higher_is_better is direction, name
    assert not any(read_endpoint(name).is_share for name in neither)


def test_the_last_value_of_a_budget_is_read(export: Export) -> None:
    made = study(export)
    assert {made.value(run, "budget/tokens") for run in made.design.runs} == {5.0 * STEPS}
