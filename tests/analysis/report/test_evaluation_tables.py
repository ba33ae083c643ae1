"""The tables on samples and evaluation sets, and what the command prints of them."""

import sys
from pathlib import Path

import pytest
from planted import manifest, sampled_answers, write_evaluated, write_sweep

from analysis.__main__ import main
from analysis.data.export import load
from analysis.report.accuracy_tables import accuracy, before_after
from analysis.report.caveats import caveats
from analysis.report.sample_answers import samples as side_by_side
from analysis.report.sections import question
from analysis.report.table_cells import Table
from analysis.report.tables import all_tables
from analysis.study.study import study

K = 8
# How many of eight samples are right, by arm and set: on its own set "none" is better, on the other worse.
RIGHT = {
    "kl": {"": [6, 5, 8, 0, 7, 1] * 5, "svamp": [7, 7, 6, 3] * 5},
    "none": {"": [7, 7, 8, 0, 8, 2] * 5, "svamp": [5, 5, 4, 2] * 5},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs") / "sampled"
    for arm, by_set in RIGHT.items():
        for seed in range(3):
            rows = {
                of_set: sampled_answers([max(0, count - (i % 5 == seed)) for i, count in enumerate(right)], K)
                for of_set, right in by_set.items()
            }
            made = manifest(seed, {"divergence": arm})
            spent = {"budget/flops": 1e15}
            write_evaluated(root / arm / f"seed={seed}", made, {0: rows, 4: rows}, spent)
    return root


@pytest.fixture(scope="module")
def tables(root: Path) -> dict[str, Table]:
    return {table.name: table for table in all_tables(study(load(str(root))))}


def cells(table: Table) -> dict[str, dict[str, str]]:
    return {str(row[0]): dict(zip(table.head, map(str, row), strict=True)) for row in table.rows}


def test_accuracy_is_that_of_samples_with_greedy_beside_it(tables: dict[str, Table]) -> None:
    table = tables["accuracy_by_divergence"]
    row = cells(table)["none"]
    assert row["avg@8, %"].startswith("64.6") and row["difference from kl"].startswith("+10.4 [")
    assert row["verdict"] == "better" and row["greedy, %"].startswith("66.7")
    assert row["greedy difference"].startswith("+3.3 [−0.5")
    foot = " ".join(table.foot)
    assert "Verdicts rest on avg@8: the mean of 8 sampled answers to each of the 30 questions." in foot
    assert "Evaluation set: the runs' own. Each set is a family of its own" in foot


def test_every_set_has_its_accuracy_its_samples_and_its_verdict(tables: dict[str, Table]) -> None:
    row = cells(tables["accuracy_by_divergence_on_svamp"])["none"]
    assert row["avg@8, %"].startswith("47.5") and row["verdict"] == "worse"
    assert "on svamp" in tables["accuracy_by_divergence_on_svamp"].title
    for name in ("samples_by_divergence", "samples_by_divergence_on_svamp"):
        head = tables[name].head
        expected = ["greedy, %", "avg@8, %", "maj@8, %", "pass@1, %", "pass@2, %", "pass@4, %", "pass@8, %"]
        assert head[1:8] == expected and head[8:10] == ["tokens, greedy", "tokens, sampled"], name
        assert "distinct answers" in head and "cut, sampled, %" in head, name
    row = cells(tables["samples_by_divergence_on_svamp"])["kl"]
    assert row["tokens, sampled"].startswith("30.0") and row["pass@8, %"].startswith("100.0")
    both = tables["sets_by_divergence"]
    assert both.head == ["divergence", "own, avg@8, %", "svamp, avg@8, %"]
    assert [cell.tone for cell in both.rows[2]] == ["quiet", "better", "worse"]
    assert "not over sets" in " ".join(both.foot)


def test_a_sweep_without_sets_or_averages_has_no_such_table(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "old")
    for path in root.rglob("metrics.jsonl"):
        path.write_text(path.read_text().replace("eval/avg@4", "eval/other"))
    names = [table.name for table in all_tables(study(load(str(root))))]
    assert not [
        name for name in names if name.startswith(("sets", "samples_by", "at_budget")) or "_on_" in name
    ]


def test_the_rest_of_a_report_knows_what_is_compared(root: Path) -> None:
    planted = study(load(str(root)))
    assert "avg@8" in question(planted) and "the runs&#x27; own (arithmetic), svamp" in question(planted)
    assert "of at most 7.3 points" in " ".join(caveats(planted))
    assert "pass@k is over" not in " ".join(caveats(planted))
    assert "at most this error" in before_after(planted).foot[0] and len(before_after(planted).rows) == 6
    assert "q/0029" not in side_by_side(planted.on("svamp")) and "Gold" in side_by_side(planted)
    assert accuracy(planted.on("svamp")).name == "accuracy_by_divergence_on_svamp"


def test_the_command_chooses_the_metric_and_prints_sets_and_budgets(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["analysis", "compare", str(root), *arguments])
        main()
        return capsys.readouterr()

    out, err = printed()
    assert "avg@8, %" in out and "own, avg@8, %" in out and "note: verdicts rest on avg@8" in err
    out, err = printed("--metric", "eval/greedy_accuracy")
    assert "avg@8, %" not in out.partition("evaluation set")[0] and not err
    out, _ = printed("--budget", "flops", "--budget", "steps=4")
    assert "equal budget of FLOPs" in out and "equal budget of steps" in out and "own," not in out
    with pytest.raises(SystemExit, match="budget=watts: the budgets are steps"):
        printed("--budget", "watts")
