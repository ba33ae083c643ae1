"""Coverage of right answers: question by question what the trainer logged, an endpoint, and guarded."""

from pathlib import Path
from typing import Any

import pytest
from falsified import Sweep, answers
from planted import answers as planted_answers
from planted import manifest, metrics, write_run

from analysis.data.export import load
from analysis.report.evaluation_tables import samples
from analysis.study.design import design
from analysis.study.guards import findings
from analysis.study.question_scores import COLUMNS, question_scores
from analysis.study.study import METRIC, study
from mirrorpo.train.sampled import Samples, sampled_metrics

K, QUESTIONS = 8, 40


def given(arm: int, seed: int, question: int) -> str:
    """Eight answers, of which "a" to "d" are right; a later arm has more of the rarer ones."""
    rarer = "bcd"[: 1 + arm] * (1 + (question + seed) % 2)
    return ("a" * K)[: K - len(rarer) - question % 2] + rarer + "x" * (question % 2)


def write_evaluated_samples(folder: Path, arm: int, seed: int, name: str) -> None:
    asked = [
        Samples(
            right=[answer != "x" for answer in text],
            answers=list(text),
            texts=list(text),
            tokens=2 * K,
            truncated=0,
            right_answers=list("abcd"),
        )
        for text in (given(arm, seed, question) for question in range(QUESTIONS))
    ]
    rows = planted_answers([True] * QUESTIONS)
    for row, question in zip(rows, asked, strict=True):
        row |= {"samples": K, "samples_right": sum(question.right), "distinct": question.distinct}
        row |= {"sampled_tokens": 2 * K, "sampled_truncated": 0, "right_counts": list(question.right_counts)}
        row |= {"majority_right": question.majority_right}
    made = manifest(seed, {"divergence": name})
    logged: list[dict[str, Any]] = [
        {key: value for key, value in row.items() if not key.startswith("eval/")}
        for row in metrics(4, [0.0] * 2)
    ]
    logged[-1] |= {"eval/greedy_accuracy": 1.0, **sampled_metrics(asked, "eval")}
    write_run(folder, made, logged, {4: rows})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    root = tmp_path_factory.mktemp("outputs") / "sweep"
    for arm, name in enumerate(("kl", "none")):
        for seed in (0, 1, 2):
            write_evaluated_samples(root / f"divergence={name}" / f"seed={seed}", arm, seed, name)
    return Sweep(root)


def test_every_question_says_its_share_of_what_the_trainer_logged(sweep: Sweep) -> None:
    export = load(str(sweep.root))
    rows = export.answers(*COLUMNS)
    for name in ("eval/coverage@1", "eval/coverage@2", "eval/coverage@8", "eval/distinct_right"):
        logged = export.metric(name).dropna().set_index("run")[name]
        scores = question_scores(name, rows)
        assert scores is not None and len(logged) == 6
        by_run = scores.groupby(rows["run"]).mean()
        assert by_run[logged.index].to_numpy() == pytest.approx(logged.to_numpy()), name
    assert findings(export, design(export), METRIC) == []


def test_it_is_an_endpoint_in_points_and_has_columns_in_the_table_of_samples(sweep: Sweep) -> None:
    of_coverage = study(load(str(sweep.root)), metric="eval/coverage@8")
    difference = of_coverage.differences()["none"]
    assert difference.interval.estimate > 0.2 and difference.share and difference.over.startswith("seeds")
    table = samples(of_coverage)
    assert table is not None
    text = " ".join(table.head)
    assert "coverage@8, %" in text and "distinct right answers" in text and "entropy" in text
    assert any("coverage@k" in line for line in table.foot)


def test_counts_that_are_not_what_was_logged_are_seen(sweep: Sweep) -> None:
    def other(rows: list[dict[str, Any]]) -> None:
        rows[3]["right_counts"] = [2, 2, 2, 2]

    path = sweep.run("none", 1) / "eval" / "step_000004.jsonl"
    before = path.read_text()
    answers(sweep.run("none", 1), other)
    export = load(str(sweep.root))
    texts = [f.text for f in findings(export, design(export), METRIC) if f.kind == "answers"]
    path.write_text(before)
    for name in ("coverage@8", "distinct_right", "right_entropy"):
        assert any(f"eval/{name} is" in text for text in texts), name
