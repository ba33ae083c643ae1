"""The command `mirrorpo evaluate`: what it evaluates, goes on with and refuses.

Its numbers are in `train/test_eval_sets.py`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import cell_here

from mirrorpo.launch import evaluate
from mirrorpo.launch.evaluate import Later
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.evaluate import Evaluation

Command = Callable[..., str]


@pytest.fixture
def done(tmp_path: Path) -> RunFolder:
    """A done run's folder with two checkpoints."""
    cell = cell_here(
        f"out={tmp_path}", "eval_datasets=[{longer:{dataset:arithmetic}}]", "seed=3", "threads=1"
    )
    run = RunFolder(cell.folder)
    run.update_manifest(state="done", config=cell.config, choices=dict(cell.choices))
    for step in (20, 40):
        (run.checkpoints / f"step_{step:06d}").mkdir(parents=True)
    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line; its error."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mirrorpo evaluate", *arguments])
        assert evaluate.main() == 1
        return capsys.readouterr().err

    return run


def test_settings_are_the_runs_with_the_sets_of_the_command_line(done: RunFolder) -> None:
    config = evaluate._config(done, ["eval_datasets=[gsm8k]", "eval_samples=8", "device=cpu", "threads=2"])
    made = done.manifest()["config"]
    assert list(config["eval_sets"]) == ["gsm8k"] and config["eval_sets"]["gsm8k"]["eval_samples"] == 8
    changed = {name for name in made if config[name] != made[name]}
    assert changed == {"eval_sets", "device", "threads"} and config["seed"] == 3
    # A run that is older than a setting.
    done.update_manifest(config={name: value for name, value in made.items() if name != "head_precision"})
    assert evaluate._config(done, ["eval_datasets=[gsm8k]"])["head_precision"] == "float32"


def test_the_start_model_and_all_checkpoints_are_evaluated_or_those_that_are_named(done: RunFolder) -> None:
    assert evaluate._steps(done, None) == [0, 20, 40]
    assert evaluate._steps(done, [40, 0]) == [0, 40]


def test_what_cannot_be_evaluated_is_refused_in_a_line(
    done: RunFolder, command: Command, tmp_path: Path
) -> None:
    run, sets = str(done.path), "eval_datasets=[arithmetic]"
    cases: dict[tuple[str, ...], str] = {
        (run,): "error: eval_datasets: give the sets to evaluate, as in eval_datasets=[gsm8k]",
        (run, "eval_datasets=[gsmk]"): "error: eval_datasets: there is no dataset gsmk",
        (
            run,
            "eval_datasets=[{longer:{dataset:arithmetic}}]",
        ): "was evaluated on a set called longer on its way",
        (run, sets, "lr=1"): "error: lr=1: the run's own settings are what they were",
        (run, sets, "eval_sample=1"): "error: there is no setting 'eval_sample'",
        (run, sets, "--steps", "30"): "error: --steps 30: ",
        (str(tmp_path), sets): "a run that is done is evaluated, and this one is no run",
        (sets,): "error: give the folder of a run",
    }
    for arguments, reason in cases.items():
        error = command(*arguments)
        assert reason in error and error.count("\n") == 1, arguments
    done.update_manifest(state="failed")
    assert "and this one is failed" in command(run, sets)


def test_a_set_goes_on_where_it_was_and_not_with_other_settings(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "settings": {"eval_samples": 4, "dataset": {"root": "/here"}, "reward": {"workers": 2}},
        "inputs": "content",
        "code": "a",
    }
    later = Later(path=tmp_path / "evaluated" / "far", record=record)
    assert later.open() == set()
    later.add(20, Evaluation(metrics={"eval/far/avg@4": 0.5}, rows=[]))
    assert (later.path / "step_000020.jsonl").exists()
    assert later.metrics.rows() == [{"step": 20, "eval/far/avg@4": 0.5}]
    # Where its files are and how many processes judge changes nothing.
    moved = {"eval_samples": 4, "dataset": {"root": "/there"}, "reward": {"workers": 8}}
    assert Later(path=later.path, record=record | {"settings": moved, "code": "b"}).open() == {20}
    for change in (
        {"settings": {"eval_samples": 8}},
        {"inputs": "other"},
        {"computed_in": "bfloat16 on cuda"},
    ):
        with pytest.raises(ValueError, match=rf"was evaluated with other {next(iter(change))}; move it away"):
            Later(path=later.path, record=record | change).open()
    assert json.loads((later.path / "evaluation.json").read_text())["inputs"] == "content"
