"""What a clean sweep of a world of few answers has, and guards are silent about; falsified they speak."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT
from falsified import Sweep, answers, copy, edit, metric
from hydra import compose, initialize_config_dir
from planted import write_sweep

from analysis.data.commands import settings_along, sweep_commands
from analysis.data.export import load
from analysis.study.design import design
from analysis.study.guards import findings
from analysis.study.study import METRIC, study
from mirrorpo.config.schema import register
from mirrorpo.launch.launches import record_launch
from mirrorpo.launch.recipe import Recipe, recipe_of

TARGET = "mirrorpo.reward.named_answer.NamedAnswer"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(write_sweep(tmp_path / "sweep"))


def of_kind(sweep: Sweep, kind: str) -> list[str]:
    export = load(str(sweep.root))
    return [finding.text for finding in findings(export, design(export), METRIC) if finding.kind == kind]


def test_settings_that_come_along_with_a_choice_are_no_mixture(sweep: Sweep) -> None:
    for seed in (0, 1):
        edit(sweep.run("none", seed), {"config/lr": 0.01})
    (mixed,) = of_kind(sweep, "mixed")
    assert mixed.startswith("lr is ")
    recipe = Recipe(["sweep=gone"], along={"divergence=none": {"lr": 0.01}})
    record_launch(sweep.root, ["train.py", "sweep=gone"], [], recipe=recipe)
    assert of_kind(sweep, "mixed") == []
    foot = study(load(str(sweep.root)), allow=["edited", "missing", "stale"]).notes
    assert "By the sweep's file, divergence=none comes with lr=0.01." in foot
    # A run without what comes along is seen, and one that has it without the choice.
    for run, lr in ((sweep.run("none", 1), 0.0005), (sweep.run("kl", 1), 0.01)):
        before = json.loads((run / "manifest.json").read_text())["config"]["lr"]
        edit(run, {"config/lr": lr})
        assert [text.split(" is ")[0] for text in of_kind(sweep, "mixed")] == ["lr"], run
        edit(run, {"config/lr": before})


def test_a_launch_notes_what_comes_along_and_of_an_older_one_the_file_says_it(sweep: Sweep) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made = recipe_of(compose("train", ["sweep=exploit_divergence"], return_hydra_config=True))
    assert made.along["reward=exploit_rare"] == {"steps": 300}
    record_launch(sweep.root, ["train.py", "sweep=exploit_divergence"], [], recipe=made)
    (command,) = sweep_commands(sweep.root)
    assert settings_along(command) == made.along
    del command["along"]
    assert settings_along(command) == made.along


def named_outcomes(rows: list[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        row["outcome"] = ("right" if index % 2 else "rare") if row["right"] else "exploit"


def test_an_outcome_that_the_settings_name_is_right_where_its_answers_are(sweep: Sweep) -> None:
    for run in sweep.runs:
        for step in (0, 2, 4):
            answers(run, named_outcomes, step)
        edit(run, {"config/reward": {"_target_": TARGET}})
    found = of_kind(sweep, "answers")
    assert len(found) == 4 and all("are right in one column and not in another" in text for text in found)
    pays = {"right": 1.0, "rare": 1.0, "exploit": 0.0}
    for run in sweep.runs:
        edit(run, {"config/reward": {"_target_": TARGET, "pays": pays}})
    assert of_kind(sweep, "answers") == []

    # One that is called right with an outcome that is wrong elsewhere, its accuracies made to fit.
    def right(rows: list[dict[str, Any]]) -> None:
        rows[-1] |= {"right": True, "strict": True, "flexible": True}

    answers(sweep.run(), right)
    for name in ("greedy_accuracy", "greedy_strict", "greedy_flexible"):
        metric(sweep.run(), 4, f"eval/{name}", 30 / 40)
    (text,) = of_kind(sweep, "answers")
    assert "q/0039 at step 4 is right, its outcome exploit" in text


def test_a_correlation_may_have_no_value_and_any_other_metric_of_an_evaluation_has(sweep: Sweep) -> None:
    for name, lacked in (("eval/gold_correlation", False), ("eval/gold_gap", True)):
        rows = [json.loads(line) for line in (sweep.run() / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row |= {name: 0.5} if row["step"] == 2 else {}
        (sweep.run() / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert any(name in text for text in of_kind(sweep, "nan")) == lacked, name


def few_answers(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["completion"] = "7"


def test_answers_that_many_runs_give_are_no_copy_and_mistakes_of_one_run_are(tmp_path: Path) -> None:
    sweep = Sweep(write_sweep(tmp_path / "sweep", seeds=(0, 1, 2)))
    for run in sweep.runs:
        answers(run, few_answers)
    # All write the same digit everywhere, and a run of other samples writes it too: it is many's answer.
    answers(sweep.run("none", 1), lambda rows: rows[0].update(samples_right=3))
    assert of_kind(sweep, "copied") == []

    def peculiar(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["completion"] = f"so #### {row['uid']}!"

    answers(sweep.run("kl", 0), peculiar)
    copy(sweep.run("kl", 0), sweep.run("kl", 1), "eval")
    (text,) = of_kind(sweep, "copied")
    assert "kl, seed 0) and " in text and "(kl, seed 1) have the same last answers" in text
