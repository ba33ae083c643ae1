"""Which accuracy verdicts rest on, and what a question contributes to each metric."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import evaluated, manifest, metrics, sampled_answers, write_evaluated, write_run

from analysis.__main__ import main
from analysis.data.export import Export, load
from analysis.data.schema import QUESTIONS
from analysis.stats.intervals import pass_at_k, pass_at_k_by_question
from analysis.study.guards import Refused
from analysis.study.metric_choice import metric_choice
from analysis.study.study import METRIC, study

K = 8
# Of each question and arm how many of eight samples are right: greedy answers hardly differ, samples do.
RIGHT = {"kl": [6, 5, 8, 0, 7, 1] * 5, "none": [7, 7, 8, 0, 8, 2] * 5}


def write_sweep(root: Path, k: int = K, sets: Sequence[str] = ("",)) -> Path:
    for arm, right in RIGHT.items():
        for seed in range(3):
            counts = [min(k, max(0, count - (index % 5 == seed))) for index, count in enumerate(right)]
            rows = dict.fromkeys(sets, sampled_answers(counts, k))
            made = manifest(seed, {"divergence": arm})
            write_evaluated(root / arm / f"seed={seed}", made, {0: rows, 4: rows})
    return root


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return load(str(write_sweep(tmp_path_factory.mktemp("outputs") / "sampled", sets=("", "svamp"))))


def names(export: Export) -> list[str]:
    return [row["run"] for row in export.records]


def test_verdicts_rest_on_the_mean_of_samples_where_all_runs_sampled_all_questions(sampled: Export) -> None:
    planted = study(sampled)
    assert (
        planted.metric == "eval/avg@8" and "8 sampled answers to each of the 30 questions" in planted.reason
    )
    difference = planted.differences()["none"]
    shares = {arm: np.mean(right) / K for arm, right in RIGHT.items()}
    assert difference.interval.estimate == pytest.approx(shares["none"] - shares["kl"], abs=0.01)
    assert (difference.over, difference.verdict()) == ("seeds and questions", "better")
    assert study(sampled, metric=METRIC).reason == "" and not study(sampled, metric=METRIC).by_samples
    assert study(sampled, compared=False).metric == METRIC


def test_where_samples_are_compared_the_accuracy_column_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_sweep(tmp_path / "sampled")
    monkeypatch.setattr("sys.argv", ["analysis", "compare", str(root), "--columns", "accuracy,verdict"])
    main()
    assert capsys.readouterr().out.splitlines()[2].split() == ["divergence", "avg@8,", "%", "verdict"]


def _rewrite(root: Path, change: Callable[[list[dict[str, Any]], str], None]) -> Export:
    """The export of a sweep whose last rows and metrics of one run are changed."""
    run = root / "none" / "seed=1"
    path = run / "eval" / "step_000004.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows, "none")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(str(root))


def test_otherwise_verdicts_rest_on_greedy_answers_and_the_reason_is_named(tmp_path: Path) -> None:
    def some(rows: list[dict[str, Any]], arm: str) -> None:
        for row in rows[20:]:
            del row["samples"], row["samples_right"]

    def fewer(rows: list[dict[str, Any]], arm: str) -> None:
        rows[:] = sampled_answers([row["samples_right"] // 2 for row in rows], K // 2)

    def none(rows: list[dict[str, Any]], arm: str) -> None:
        rows[:] = [{key: row[key] for key in row if "sampl" not in key} for row in rows]

    for change, why in (
        (some, r"1 of 6 runs sampled 20 of 30 \(eval_sampled_questions\)"),
        (fewer, r"there are 4, 8 \(eval_samples\)"),
        (none, "1 of 6 runs sampled 0 of 30"),
    ):
        export = _rewrite(write_sweep(tmp_path / change.__name__), change)
        choice = metric_choice(export, names(export))
        assert choice.metric == METRIC, change
        assert re.search(why, choice.reason), choice.reason
    single = load(str(write_sweep(tmp_path / "single", k=1)))
    assert "there are 1 (eval_samples)" in metric_choice(single, names(single)).reason
    write_run(tmp_path / "a" / "seed=0", manifest(0), metrics(4, [0.5, 0.6, 0.7]), {})
    bare = load(str(tmp_path / "a"))
    assert metric_choice(bare, names(bare)) == (
        METRIC,
        "greedy answers: no question was sampled (eval_samples)",
    )


def test_a_run_that_calls_it_pass_at_1_is_compared_by_that(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "old")
    for path in root.rglob("metrics.jsonl"):
        path.write_text(path.read_text().replace("eval/avg@8", "eval/other"))
    planted = study(load(str(root)))
    assert planted.metric == "eval/pass@1" and planted.by_samples and "older version" in planted.reason
    assert planted.differences()["none"].over == "seeds and questions"


def test_without_rows_the_metrics_say_whether_all_was_sampled(sampled: Export) -> None:
    bare = Export(sampled.runs, sampled.metrics, QUESTIONS.empty_table(), sampled.about)
    assert metric_choice(bare, names(bare)).metric == "eval/avg@8"
    assert metric_choice(bare, names(bare), "svamp").metric == "eval/svamp/avg@8"
    assert study(bare).differences()["none"].over == "seeds"


def test_every_metric_of_questions_is_the_mean_of_its_questions(sampled: Export) -> None:
    planted = study(sampled)
    counts = ("questions", "unverifiable")
    known = [name for name in sampled.names if name.startswith("eval/") and not name.endswith(counts)]
    assert {"eval/maj@8", "eval/pass@4", "eval/svamp/sampled_length"} <= set(known)
    for name in known:
        for arm in RIGHT:
            matrix, stated = planted.matrix(arm, (0, 1, 2), metric=name), planted.scores(arm, metric=name)
            assert matrix is not None and matrix.shape == (3, 30), name
            assert list(stated.values()) == pytest.approx(list(matrix.mean(axis=1)), abs=1e-12), name
    assert planted.matrix("kl", (0, 1, 2), metric="eval/avg@4") is None


def test_rows_of_another_set_stay_out_of_the_runs_own(sampled: Export) -> None:
    assert sampled.sets == ["svamp"] and len(sampled.answers()) == len(sampled.answers(of_set="svamp"))
    assert set(sampled.questions["set"].unique().to_pylist()) == {None, "svamp"}
    assert len(study(sampled).answers(study(sampled).design.runs[0])) == 30


def test_samples_whose_mean_is_not_the_metric_are_refused(tmp_path: Path) -> None:
    def other(rows: list[dict[str, Any]], arm: str) -> None:
        rows[0]["samples_right"] -= 1

    with pytest.raises(Refused, match=r"eval/avg@8 is 0\.6\d+, its answers have 0\.6"):
        study(_rewrite(write_sweep(tmp_path / "own"), other))
    root = write_sweep(tmp_path / "sets", sets=("", "svamp"))
    path = root / "kl" / "seed=2" / "eval" / "svamp" / "step_000004.jsonl"
    path.write_text(path.read_text().replace("q/0001", "q/9999").replace('"right": true', '"right": false'))
    with pytest.raises(Refused, match=r"svamp: set 1 of 30 questions in 1 runs(.|\n)*eval/svamp/greedy_acc"):
        study(load(str(root)))


def test_the_chance_of_a_question_is_that_of_all_draws_and_nothing_where_there_are_too_few() -> None:
    counts = [0, 1, 3, 4]
    for k in (1, 2, 3, 4):
        chances = pass_at_k_by_question(counts, [4] * 4, k)
        assert float(chances.mean()) == pytest.approx(pass_at_k(counts, 4, k)), k
        assert chances[1] == pytest.approx(k / 4) and chances[0] == 0.0
    assert np.isnan(pass_at_k_by_question([1, math.nan], [1, math.nan], 2)).all()
    # A damaged row has more right samples than samples.
    assert np.isnan(pass_at_k_by_question([5], [4], 2)).all()


def test_planted_metrics_are_those_of_their_rows() -> None:
    rows = sampled_answers([8, 4, 0], 8)
    assert evaluated(rows)["eval/maj@8"] == 0.5 and evaluated(rows)["eval/avg@8"] == 0.5
