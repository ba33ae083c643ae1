"""Rewards from YAML alone, in a folder outside the repository: trained two steps and evaluated."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT, SMALL, cell_here, folder, manifest, rows, succeeded, train, train_in_new_python
from judge_server import Body, Judge, by_gold, judge_server

from mirrorpo.train.build import build_dataset

PROXY = """\
# Short answers, while the gold is the right one.
defaults:
  - proxy
  - override /reward@proxy: length
  - _self_
"""
JUDGED = """\
# Half of it by a judge behind HTTP.
defaults:
  - sum
  - /reward@parts.judge.reward: http
  - _self_
correct: judge
parts:
  judge: {weight: 0.5, reward: {url: "URL", batch: 8, timeout_s: 20.0, retries: 1, backoff_s: 0.01}}
"""
PAGE = ROOT / "docs" / "rewards.md"
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judge_server() as server:
        yield server


def written(tmp_path: Path, text: str) -> tuple[str, ...]:
    """The command line of a reward that a YAML file outside the repository describes."""
    path = tmp_path / "own" / "reward" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return ("--config-dir", str(tmp_path / "own"), "reward=mine", *SMALL, "steps=2")


def steps(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of training, and the last one, which has an evaluation."""
    recorded = rows(run / "metrics.jsonl")
    return [row for row in recorded if "reward/mean" in row], recorded[-1]


@pytest.mark.slow
def test_a_sum_with_a_function_trains_and_logs_each_part(tmp_path: Path) -> None:
    # The file that docs/rewards.md shows.
    (shown,) = re.findall(r"```yaml\n(# conf/reward/mine\.yaml.*?)```", PAGE.read_text(), re.DOTALL)
    text = shown.replace("mine.exact", "foreign.exact_match")
    succeeded(train_in_new_python(*written(tmp_path, text), cwd=tmp_path, PYTHONPATH=TESTS))
    trained, last = steps(folder(tmp_path / "outputs"))
    weights = {"correctness": 1.0, "length": 0.1, "format": 0.0, "script": 0.2, "exact": 0.5}
    assert len(trained) == 2
    for row in trained:
        parts = {name: row[f"reward/part/{name}"] for name in weights}
        assert row["reward/mean"] == pytest.approx(sum(weights[name] * parts[name] for name in parts))
        assert row["reward/flexible"] == parts["correctness"] and row["reward/unverifiable/exact"] == 0
    assert last["eval/greedy_accuracy"] == last["eval/part/correctness"] and "eval/part/length" in last
    assert manifest(folder(tmp_path / "outputs"))["reward_version"].startswith(
        "sum/1 correctness=math_answer/"
    )


@pytest.mark.slow
def test_a_proxy_trains_and_accuracy_is_the_golds(tmp_path: Path) -> None:
    succeeded(train(*written(tmp_path, PROXY), cwd=tmp_path))
    trained, last = steps(folder(tmp_path / "outputs"))
    assert len(trained) == 2
    for row in trained:
        assert row["reward/gold"] == row["reward/strict"]
        assert row["reward/gold_gap"] == pytest.approx(row["reward/mean"] - row["reward/gold"])
    assert last["eval/greedy_accuracy"] == last["eval/gold"]


@pytest.mark.slow
def test_a_judge_behind_http_trains_stops_a_run_when_it_breaks_and_is_known_again(
    tmp_path: Path, judge: Judge
) -> None:
    arguments = (*written(tmp_path, JUDGED.replace("URL", judge.url)), "eval_every=0")
    of_training = {prompt.uid for prompt in build_dataset(cell_here().config).load("train")}
    trained_on: list[str] = []

    def broken_after_a_step(body: Body) -> object:
        answers = zip(body["uids"], body["texts"], body["golds"], strict=True)
        trained_on.extend(uid for uid, text, gold in answers if uid in of_training and text != gold)
        return by_gold(body) if len(trained_on) <= 12 else 503

    judge.judge = broken_after_a_step
    broken = train(*arguments, cwd=tmp_path)
    assert broken.returncode != 0
    run = folder(tmp_path / "outputs")
    assert "the verifier gave no verdict on 12 of 12 completions, judge none on 12" in manifest(run)["error"]
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [0, 1]

    judge.judge, judge.version = by_gold, "judge/2"
    other = train(*arguments, cwd=tmp_path)
    assert other.returncode != 0 and "other circumstances (reward_sources" in other.stdout + other.stderr

    judge.version = "judge/1"
    succeeded(train(*arguments, cwd=tmp_path), ["resuming after step 1 of 2"])
    trained, last = steps(run)
    assert [row["step"] for row in trained] == [1, 2] and trained[1]["outcome/unverifiable"] == 0
    # Right and wrong, and their words, are the judge's.
    assert last["eval/part/judge"] == pytest.approx(0.25 + 0.75 * last["eval/greedy_accuracy"])
    assert {"outcome/alas"} <= set(trained[1]) or {"outcome/bravo"} <= set(trained[1])
    assert manifest(run)["reward_sources"] == {"parts.judge.reward.url": "judge/1"}
