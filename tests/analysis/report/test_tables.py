"""What the tables say of planted sweeps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import ROOT
from matplotlib import pyplot
from planted import answers, export_of, follow, manifest, metrics, write_run, write_sweep

from analysis.data.export import load
from analysis.report.accuracy_tables import accuracy, before_after, grid
from analysis.report.caveats import caveats
from analysis.report.drift_tables import matched_drift_table, steered_drift_table
from analysis.report.figure_style import styled
from analysis.report.figures import frontier, learning, spans
from analysis.report.papers_table import papers
from analysis.report.reconciliation import reconciled, steered_findings
from analysis.report.sections import findings
from analysis.report.span_tables import importance, truth
from analysis.report.statistics_table import statistics
from analysis.report.table_cells import Table
from analysis.report.tables import all_tables
from analysis.report.training_tables import sampled, steps_to_baseline
from analysis.study.endpoint import read_endpoint
from analysis.study.study import Study, study


def cells(table: Table | None) -> dict[str, dict[str, str]]:
    """The table's texts, by row and head."""
    assert table is not None
    return {
        str(row[0]): dict(zip(table.head, map(str, row), strict=True)) for row in table.rows if len(row) > 1
    }


def right(share: float, seeds: int = 3, questions: int = 40) -> np.ndarray[Any, Any]:
    """Answers of seeds that differ by one question each."""
    return np.array(
        [[index < share * questions + seed for index in range(questions)] for seed in range(seeds)]
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = write_sweep(
        tmp_path_factory.mktemp("s") / "sweep", arms=("kl", "probl2", "neural_mirror"), seeds=(0, 1, 2)
    )
    return study(load(str(root)))


def test_accuracy_by_arm_with_its_difference_and_verdict(sweep: Study) -> None:
    texts = cells(accuracy(sweep))
    assert list(texts) == ["kl", "neural_mirror", "probl2"]
    assert (
        texts["kl"]["accuracy, %"] == "62.5 [56.3, 68.7]" and texts["kl"]["difference from kl"] == "baseline"
    )
    assert (
        texts["probl2"]["difference from kl"].startswith("+10.0 [")
        and texts["probl2"]["verdict"] == "better"
        and texts["probl2"]["P(better)"] == "1.00"
    )


def test_a_difference_can_be_measured_from_another_arm(sweep: Study) -> None:
    table = accuracy(sweep, baseline="probl2")
    assert (
        cells(table)["kl"]["difference from probl2"].startswith("−10.0 [")
        and cells(table)["kl"]["verdict"] == "worse"
    )
    assert table.name != accuracy(sweep).name


def test_the_papers_numbers_stand_beside_ours(sweep: Study) -> None:
    texts = cells(papers(sweep))
    assert (
        texts["probl2"]["published"] == "86.7 [V]"
        and texts["probl2"]["published difference"] == "+5.5 [V]"
        and texts["probl2"]["published lies"] == "inside"
    )
    assert (
        texts["neural_mirror"]["published difference"] == "+3.9 [I]"
        and texts["neural_mirror"]["published lies"] == "outside"
    )
    assert texts["kl"]["published difference"] == ""


def test_papers_a_gain_and_its_words() -> None:
    arms = {
        "uniform": right(0.7),
        "counterfactual": right(0.7),
        "counterfactual_inverted": right(0.6),
        "random_span": right(0.7),
    }
    texts = cells(papers(study(export_of(arms, axis="weighting"))))
    assert set(texts) == {"uniform", "counterfactual", "counterfactual_inverted"}
    assert (
        texts["counterfactual"]["published difference"] == "+0.8 to +1.1 [V]"
        and texts["counterfactual_inverted"]["published difference"] == "hurts [V]"
    )


def test_there_is_no_papers_table_where_no_arm_is_theirs() -> None:
    assert papers(study(export_of({"none": right(0.5), "tsallis": right(0.6)}))) is None


def test_weightings_by_model() -> None:
    arms = {"uniform": right(0.5), "counterfactual": right(0.75)}
    table = grid(study(export_of(arms, axis="weighting", model=("tiny", "qwen"))))
    assert table is not None and table.head == ["weighting", "qwen", "tiny"] and len(table.rows) == 3
    assert (
        table.rows[2][1].text == "+25.0"
        and table.rows[2][1].tone == "better"
        and len(table.rows[2][1].runs) == 6
    )
    assert grid(study(export_of(arms, axis="weighting"))) is None


def test_sampled_accuracy_spread_and_length(sweep: Study) -> None:
    texts = cells(sampled(sweep))
    assert texts["probl2"]["spread / baseline's"].startswith("1.00 [") and texts["probl2"][
        "tokens an answer"
    ].startswith("22.9")
    assert (
        texts["probl2"]["length, % against baseline"] == "0.0 [0.0, 0.0]"
        and texts["kl"]["length, % against baseline"] == ""
    )
    assert texts["probl2"]["verdict"] == "undecided (more questions)"


def course(root: Path, arms: dict[str, list[list[float]]], drift: dict[str, float]) -> Study:
    for arm, seeds in arms.items():
        for seed, values in enumerate(seeds):
            steps = max(4, len(values) - 1)
            made = manifest(seed, {"divergence": arm}, **{"config.steps": steps})
            write_run(root / arm / f"seed={seed}", made, metrics(steps, values, drift[arm]), {})
    return study(load(str(root)))


def test_steps_to_the_baselines_last_accuracy(tmp_path: Path) -> None:
    # Evaluated at steps 0 to 8.
    def rises(at: int, high: float = 0.75) -> list[float]:
        return [0.5] * at + [high] * (9 - at)

    fast = [rises(2), rises(2), rises(1)]
    never = [rises(9), rises(9), rises(4)]
    base = [rises(8), rises(7), rises(6)]
    texts = cells(
        steps_to_baseline(
            course(
                tmp_path,
                {"kl": base, "probl2": fast, "none": never},
                dict.fromkeys(("kl", "probl2", "none"), 0.1),
            )
        )
    )
    assert texts["kl"]["steps to it"].startswith("7.0") and texts["kl"]["goal, %"] == "75.0"
    assert texts["probl2"]["steps to it"].startswith("1.7")
    assert texts["probl2"]["difference from kl"].startswith("−5.3") and texts["probl2"]["verdict"] == "better"
    assert texts["none"]["seeds that reach it"] == "1 of 3" and texts["none"]["steps to it"].startswith("6.7")


def test_steps_of_seeds_that_agree_have_no_p_and_few_evaluations_no_table(tmp_path: Path) -> None:
    drift = {"kl": 0.1, "none": 0.1}
    course_of = {"kl": [[0.5] * 8 + [0.75]] * 3, "none": [[0.5] * 4 + [0.75] * 5] * 3}
    row = cells(steps_to_baseline(course(tmp_path / "many", course_of, drift)))["none"]
    assert row["difference from kl"] == "−4.0" and row["verdict"] == "undecided (6 seeds at least)"
    assert row["p"] == "— (not below 5% with 3 seeds that tie)"
    few = {arm: [[0.5, 0.6, 0.8]] * 3 for arm in drift}
    assert steps_to_baseline(course(tmp_path / "few", few, drift)) is None


def test_accuracy_where_all_have_drifted_as_far(tmp_path: Path) -> None:
    # none drifts twice as far: at kl's end it has gone half its way.
    arms = {"kl": [[0.5, 0.6, 0.7]] * 3, "none": [[0.5, 0.7, 0.9]] * 3}
    made = course(tmp_path, arms, {"kl": 0.1, "none": 0.2})
    table = matched_drift_table(made)
    assert table is not None and str(table.rows[0][0]) == "matched drift 0.1000 nats"
    row = cells(table)["none"]
    assert row["accuracy at the end, %"].startswith("90.0") and row["first step there"] == "2.0"
    assert row["accuracy at the first, %"].startswith("70.0") and row["difference from kl, first"] == "0.0"
    assert row["crossings"] == "1" and "verdict" not in row
    assert not reconciled(made)


def test_a_drift_that_is_passed_before_anything_was_evaluated_has_no_accuracy(tmp_path: Path) -> None:
    # Of none the steps are 1, 2, ...; evaluated at 0 and 4 alone.
    arms = {"kl": [[0.5, 0.7]] * 3, "none": [[0.5, 0.9]] * 3}
    made = course(tmp_path, arms, {"kl": 0.1, "none": 0.4})
    table = matched_drift_table(made)
    row = cells(table)["none"]
    assert row["first step there"] == "1.0" and row["accuracy at the first, %"] == "—"
    assert row["difference from kl, last"] == "—" and cells(table)["kl"]["accuracy at the last, %"] != "—"
    assert table is not None and table.foot[0] == (
        "A dash is not known, since 3 runs (none) pass it before anything was evaluated after their start; "
        "evaluate more often (eval_every)."
    )
    assert reconciled(made) == [
        "At equal drift (0.1000 nats) accuracy is not known: 3 runs (none) pass it before anything was "
        "evaluated after their start; evaluate more often (eval_every). The findings are at equal steps, "
        "where drift differs: from 0.1000 nats (kl) to 0.4000 nats (none)."
    ]


def test_an_arm_that_is_better_at_the_end_and_worse_at_equal_drift_is_reconciled(tmp_path: Path) -> None:
    # Learns as fast in steps and drifts twice as fast: at kl's drift it is behind.
    seeds = np.arange(6)[:, None] / 1000
    kl, none = np.array([0.5, 0.68, 0.7]), np.array([0.5, 0.55, 0.8])
    noise = np.random.default_rng(0).normal(0, 0.004, size=(6, 3))
    arms = {"kl": (kl + seeds).tolist(), "none": (none + seeds + noise).tolist()}
    made = course(tmp_path, arms, {"kl": 0.1, "none": 0.2})
    assert made.differences()["none"].verdict() == "better"
    (sentence,) = reconciled(made)
    assert sentence.startswith("<b>none</b> against kl is better at the end by eval/greedy_accuracy (+9.9 [")
    assert "but worse" in sentence and "worse where both have drifted 0.1000 nats (first) (−1" in sentence
    assert "none has taken 2.0 steps and kl 4.0" in sentence and sentence in findings(made)


def test_a_drift_that_is_logged_less_often_is_known_to_as_many_steps(tmp_path: Path) -> None:
    made: dict[str, Study] = {}
    for name, every in (("each", 1), ("some", 2), ("few", 4)):
        for arm, drift in (("kl", 0.1), ("none", 0.2)):
            for seed in range(3):
                rows = metrics(4, [0.5, 0.6, 0.7], drift)
                for row in rows:
                    if row["step"] % every:
                        del row["drift/kl"]
                of_run = manifest(seed, {"divergence": arm}, **{"config.steps": 4})
                write_run(tmp_path / name / arm / f"seed={seed}", of_run, rows, {})
        made[name] = study(load(str(tmp_path / name)))
    each, some, few = (matched_drift_table(of_name) for of_name in made.values())
    assert cells(each) == cells(some) and caveats(made["each"]) == caveats(made["some"])
    assert each is not None and some is not None and few is not None
    assert not any("drift_every" in text for text in each.foot)
    assert "Drift was logged every 2 steps (drift_every)" in some.foot[2]
    # Twice the drift is no match of it.
    assert "3 runs (none) have no logged drift within 25% of it" in few.foot[0]
    with styled():
        drawings = [learning(made["some"]), frontier(made["some"])]
    assert all(drawing is not None for drawing in drawings)
    pyplot.close("all")


def test_arms_that_were_steered_to_one_drift_have_verdicts_at_that_drift(tmp_path: Path) -> None:
    ends = {("kl", 0.05): 20, ("probl2", 0.05): 30, ("kl", 0.1): 20, ("probl2", 0.1): 30}
    for (arm, target), right in ends.items():
        for seed in range(3):
            made = manifest(seed, {"divergence": arm})
            schedule = {"target": target, "measure": "drift/kl"}
            config = {**made["config"], "beta_schedule": schedule}
            made = manifest(seed, {"divergence": arm}, config=config, command=["train.py"])
            given = dict.fromkeys((0, 2, 4), answers([index < right + seed for index in range(40)]))
            # probl2 does not get to 0.1.
            drift = target if (arm, target) != ("probl2", 0.1) else 0.06
            rows = follow(metrics(4, [0.5, 0.5], drift), given)
            write_run(tmp_path / f"{arm}{target}" / f"seed={seed}", made, rows, given)
    steered = study(
        load(str(tmp_path)), by=["beta_schedule.target"], allow=["contradiction", "duplicated", "edited"]
    )
    assert matched_drift_table(steered) is None
    table = steered_drift_table(steered)
    assert table is not None
    rows = [[str(cell) for cell in row] for row in table.rows]
    assert rows[0] == ["drift/kl steered to 0.05, step 4"] and rows[3] == ["drift/kl steered to 0.1, step 4"]
    assert rows[2][0] == "probl2 beta_schedule.target=0.05" and rows[2][3].startswith("+25.0 [")
    assert rows[2][5] == "better" and rows[5][5] == "none (drift is not the target in all runs)"
    first, second = steered_findings(steered)
    assert "step 4), against kl beta_schedule.target=0.05: probl2" in first and first.endswith(": better.")
    assert "no verdict, of probl2 beta_schedule.target=0.1 not all runs ended near it" in second


def test_importance_by_kind_of_span_is_of_the_last_quarter(tmp_path: Path) -> None:
    for seed in range(2):
        rows = metrics(8, [0.5, 0.6, 0.7])
        for row in rows[1:]:
            late = row["step"] > 6
            row |= {
                "credit/drop_calculation": 5.0 + seed if late else 0.0,
                "credit/tokens_calculation": 0.4,
                "credit/gradient_calculation": 0.6,
            }
            row |= {
                "credit/drop_scaffolding": 1.0,
                "credit/tokens_scaffolding": 0.5,
                "credit/gradient_scaffolding": 0.3,
                "credit/distractors": 0.035,
            }
        write_run(tmp_path / "a" / f"seed={seed}", manifest(seed, **{"config.steps": 8}), rows, {})
    texts = cells(importance(study(load(str(tmp_path)))))
    assert texts["calculation"]["drop, nats"].startswith("5.5") and texts["calculation"][
        "gradient / tokens"
    ].startswith("1.50")
    assert texts["all spans"]["negative drops, %"].startswith("3.5")
    assert (texts["calculation"]["runs"], texts["calculation"]["steps"]) == ("2 of 2", "2")
    assert (texts["all spans"]["runs"], texts["all spans"]["steps"]) == ("2 of 2", "2")


def test_a_kind_of_span_that_is_rare_says_on_how_little_it_rests_and_no_share_is_below_0(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        rows = metrics(8, [0.5, 0.6, 0.7])
        for row in rows[1:]:
            row |= {f"credit/{name}_calculation": 0.5 for name in ("drop", "tokens", "gradient")}
            # Of the last quarter, steps 7 and 8, some have a sentence in two runs.
            if seed and row["step"] > 8 - seed:
                row |= {"credit/drop_sentence": 1.0, "credit/tokens_sentence": 0.01}
                row |= {"credit/gradient_sentence": 0.001 if seed == 1 else 0.3}
        write_run(tmp_path / "a" / f"seed={seed}", manifest(seed, **{"config.steps": 8}), rows, {})
    made = study(load(str(tmp_path)), allow=["nan"])
    texts = cells(importance(made))
    assert (texts["calculation"]["runs"], texts["calculation"]["steps"]) == ("3 of 3", "2")
    assert (texts["sentence"]["runs"], texts["sentence"]["steps"]) == ("2 of 3", "1 to 2")
    for head in ("tokens, %", "policy gradient, %", "gradient / tokens"):
        assert "[0.0" in texts["sentence"][head] or "−" not in texts["sentence"][head], head
    with styled():
        figure = spans(made)
        assert figure is not None
        lines = [path for line in figure.axes[1].collections for path in line.get_paths()]
        assert min(path.vertices[:, 1].min() for path in lines) > -1e-9
        pyplot.close("all")


def test_what_re_rolled_runs_say_of_their_spans_is_a_table_each(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "sweep", arms=("kl",))
    spans = [
        {
            "uid": str(index),
            "kind": kind,
            "last": False,
            "answer": drop,
            "downstream": 2 * drop,
            "direct": drop,
            "before": 0.5,
            "after": 0.75,
        }
        for index in range(5)
        for kind, drop in (("calculation", 2.0), ("scaffolding", 1.0))
    ]
    (root / "divergence=kl" / "seed=1" / "credit_truth.jsonl").write_text(
        "".join(json.dumps(span) + "\n" for span in spans)
    )
    kinds, order = truth(study(load(str(root))))
    texts = {
        (str(row[0]), str(row[1])): dict(zip(kinds.head, map(str, row), strict=True)) for row in kinds.rows
    }
    assert (
        texts["calculation", "all"]["downstream"] == "4.00 [4.00, 4.00]"
        and texts["scaffolding", "all"]["effect"] == "0.25 [0.25, 0.25]"
    )
    assert cells(order)["answer"]["calculation first"] == "1.00 [1.00, 1.00]" and len(order.runs) == 1


def test_there_are_no_spans_where_nothing_was_scored(sweep: Study) -> None:
    assert importance(sweep) is None and "importance" not in [table.name for table in all_tables(sweep)]


def test_every_statistic_is_there(sweep: Study) -> None:
    texts = cells(statistics(sweep))
    assert (
        texts["probl2"]["McNemar, seeds with p<.05"] == "0 of 3"
        and texts["neural_mirror"]["McNemar, seeds with p<.05"] == "3 of 3"
    )
    assert (
        texts["neural_mirror"]["both-level bootstrap"].startswith("+20.0 [")
        and texts["neural_mirror"]["p"] <= texts["neural_mirror"]["Holm p"]
    )


def test_before_and_after_of_every_run(sweep: Study) -> None:
    table = before_after(sweep)
    assert len(table.rows) == 9
    assert [str(cell) for cell in table.rows[0]] == [
        "kl",
        "0",
        "4",
        "40",
        "50.0 ± 7.9",
        "60.0 ± 7.7",
        "+10.0",
        "c0ffeec0f",
    ]


def test_a_run_that_is_all_right_is_not_without_error() -> None:
    row = before_after(study(export_of({"kl": np.ones((1, 40), dtype=bool)}), compared=False)).rows[0]
    assert str(row[5]) == "100.0 [91.2, 100.0]"


def test_arms_are_compared_on_the_seeds_that_both_have(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "sweep", arms=("kl", "none"), seeds=(0, 1))
    given = dict.fromkeys((0, 2, 4), answers([True] * 4 + [False] * 36))
    write_run(root / "divergence=kl" / "seed=2", manifest(2), follow(metrics(4, [0.5, 0.5]), given), given)
    planted = study(load(str(root)), allow=["missing"])
    assert planted.differences()["none"].n == 2 and planted.differences()[
        "none"
    ].interval.estimate == pytest.approx(0.1)
    assert any("kl" in note or "none" in note for note in accuracy(planted).notes)


def test_each_row_says_what_its_interval_is_for(tmp_path: Path) -> None:
    # Of probl2 no answers are known; of none and kl they are.
    for arm, gain in (("kl", 0), ("none", 4), ("probl2", 4)):
        for seed in range(3):
            correct = 24 + gain + seed
            given = {4: answers([index < correct for index in range(40)])}
            made, rows = manifest(seed, {"divergence": arm}), follow(metrics(4, [0.5, 0.5]), given)
            write_run(tmp_path / arm / f"seed={seed}", made, rows, given if arm != "probl2" else {})
    planted = study(load(str(tmp_path)), allow=["answers"])
    texts, foot = cells(accuracy(planted)), accuracy(planted).foot[1]
    assert {arm: row["for new"] for arm, row in texts.items()} == {
        "kl": "",
        "none": "seeds, questions",
        "probl2": "seeds",
    }
    assert texts["probl2"]["p"] == "— (not below 5% with 3 seeds that tie)"
    assert "for new seeds and questions:" in foot and "for new seeds: Student's t" in foot


def test_the_margin_is_of_points_and_of_shares(sweep: Study) -> None:
    wide = sweep.with_margin(60.0)
    texts = cells(accuracy(wide))
    assert texts["neural_mirror"]["verdict"] == "better (by less than 60 points)"
    assert "Equal within 60 points" in accuracy(wide).foot[1]
    for made, margin, why in (
        (sweep, 0.0, "above 0"),
        (replace(sweep, endpoint=read_endpoint("eval/length")), 0.0, "how much of eval/length"),
    ):
        with pytest.raises(ValueError, match=why):
            made.with_margin(margin)


def test_one_run_is_a_table_too(tmp_path: Path) -> None:
    given = {4: answers([True] * 14 + [False] * 6)}
    write_run(tmp_path / "a" / "seed=0", manifest(0), follow(metrics(4, [0.5, 0.6]), given), given)
    planted = study(load(str(tmp_path)))
    assert cells(accuracy(planted))["kl"]["accuracy, %"] == "70.0" and all(all_tables(planted))


def test_the_package_never_imports_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, analysis\nfor module in pkgutil.walk_packages(analysis.__path__, "
        "'analysis.'):\n    importlib.import_module(module.name)\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_runs_that_are_only_listed_need_not_be_comparable(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", arms=("kl",), seeds=(0, 1))
    write_sweep(tmp_path / "b", arms=("kl", "none"), seeds=(1,), **{"config.lr": 0.1})
    table = before_after(study(load(str(tmp_path)), compared=False))
    assert len(table.rows) == 4 and not table.notes
    write_run(tmp_path / "c" / "seed=0", manifest(0, state="failed"), metrics(4, [0.5, 0.5, 0.5])[:2], {})
    with pytest.raises(ValueError, match=r"c/seed=0 .* is failed"):
        study(load(str(tmp_path)), compared=False)


def test_a_failed_start_is_a_row_of_its_own_and_stands_in_no_lists_way(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", arms=("kl",), seeds=(0, 1))
    refused = manifest(2, state="failed", error="ValueError: model.path=x: cannot be loaded")
    write_run(tmp_path / "a" / "none" / "seed=2", refused, [], {})
    planted = study(load(str(tmp_path)), compared=False)
    *others, last = [[str(cell) for cell in row] for row in before_after(planted).rows]
    assert len(others) == 2 and "failed" not in [text for row in others for text in row]
    assert last[1] == "2" and last[4] == "failed" and "model.path=x: cannot be loaded" in last[-1]
    with pytest.raises(ValueError, match="is failed"):
        study(load(str(tmp_path)))
