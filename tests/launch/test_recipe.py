"""What a launch set out to do is noted with it, and is not lost to the next."""

import json
from pathlib import Path

import pytest
from cli import ROOT, succeeded, train
from hydra import compose, initialize_config_dir
from planted import write_sweep

from analysis.data.commands import sweep_commands
from analysis.data.export import load
from analysis.report.sections import again, question
from analysis.study.study import study
from mirrorpo.config.schema import register
from mirrorpo.launch.launches import LAUNCHES, launches, record_launch
from mirrorpo.launch.recipe import Recipe, claim, recipe_of

ASKED = ["train.py", "sweep=tiny_divergence", "seed=0,1"]
LATER = ["train.py", "sweep=mine", "hydra.launcher.jobs=2"]


def test_a_recipe_is_what_was_typed_and_what_the_sweep_file_says() -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made = recipe_of(compose("train", ["sweep=tiny_gbmpo", "seed=3"], return_hydra_config=True))
    assert made.typed == ["sweep=tiny_gbmpo", "seed=3"]
    assert made.written == ["algo=dr_grpo", "divergence=kl,none,probl2,neural_mirror"]
    assert made.claim[0].startswith("Claim under test, twin of gbmpo_gsm8k on the tiny model")
    assert not any("python train.py" in line for line in made.claim)


def test_a_claim_is_the_first_comment_of_a_file_and_no_later_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# @package _global_\n# Claim: it is.\n#   python train.py sweep=mine\n#\n# It fails if not.\n"
        "defaults:\n  - _self_\n# lr: 1 was tried.\nname: mine  # here\n\n# seed: of old\nseed: 0\n"
    )
    assert claim(file) == ["Claim: it is.", "It fails if not."]
    file.write_text("# @package _global_\nname: mine\n# No claim.\n")
    assert claim(file) == []


def test_every_launch_into_a_folder_keeps_its_claim_and_recipe(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "sweep", arms=("kl", "none"))
    first = Recipe(["sweep=tiny_divergence", "seed=0,1"], ["divergence=kl"], ["Claim: the first."])
    record_launch(root, ASKED, ["divergence=kl/seed=0", "divergence=kl/seed=1"], recipe=first)
    second = Recipe(["sweep=mine"], ["divergence=none", "seed=0,1"], ["Claim: the second."])
    # It has all cells of the first, and another claim.
    cells = [f"divergence={arm}/seed={seed}" for arm in ("kl", "none") for seed in (0, 1)]
    record_launch(root, LATER, cells, recipe=second)
    # Hydra has the last one alone.
    typed = "hydra: {overrides: {task: ['sweep=mine']}, sweeper: {params: null}}"
    (root / "multirun.yaml").write_text(typed)
    assert [launch.recipe.claim for launch in launches(root)] == [
        ["Claim: the first."],
        ["Claim: the second."],
    ]
    load(str(root)).write(tmp_path / "export")
    for source in (root, tmp_path / "export"):
        made = study(load(str(source)))
        assert made.design.planned_seeds == [0, 1] and made.design.arms == ["kl", "none"]
        shown, commands = question(made), again(made)
        assert "<dt>claim, sweep=tiny_divergence</dt><dd>Claim: the first.</dd>" in shown
        assert "<dt>claim, sweep=mine</dt><dd>Claim: the second.</dd>" in shown
        for argv in (ASKED, LATER):
            assert " ".join(["python", *argv]) in commands


def test_launches_of_older_versions_are_read_by_their_arguments(tmp_path: Path) -> None:
    entries = [{"argv": argv, "cwd": "/", "time": "t", "cells": [argv[1]]} for argv in (ASKED, LATER)]
    (tmp_path / LAUNCHES).write_text(json.dumps(entries))
    typed = "hydra: {overrides: {task: ['sweep=mine']}, sweeper: {params: {seed: 'range(2)', sweep: x}}}"
    (tmp_path / "multirun.yaml").write_text(typed)
    assert [(command["typed"], command["written"]) for command in sweep_commands(tmp_path)] == [
        (["sweep=tiny_divergence", "seed=0,1"], []),
        (["sweep=mine"], ["seed=range(2)"]),
    ]
    # Before launches were noted there is Hydra's file alone.
    (tmp_path / LAUNCHES).unlink()
    assert [command["typed"] for command in sweep_commands(tmp_path)] == [["sweep=mine"]]


def test_a_claim_that_was_overwritten_before_is_read_from_the_runs_commands() -> None:
    made = study(load(str(ROOT / "docs" / "results" / "tiny_gbmpo" / "export")))
    assert [command["typed"] for command in made.export.commands] == [
        ["sweep=tiny_gbmpo"],
        ["sweep=tiny_gbmpo_learned"],
    ]
    shown, commands = question(made), again(made)
    assert "<dt>claim, sweep=tiny_gbmpo</dt><dd>Claim under test, twin of gbmpo_gsm8k" in shown
    assert "python train.py -m sweep=tiny_gbmpo\n" in commands


@pytest.mark.slow
def test_two_real_commands_into_one_folder_are_both_noted(tmp_path: Path) -> None:
    small = ("eval_questions=0", "drift_questions=0", "steps=1")
    for divergence in ("kl", "none"):
        ran = train("-m", f"divergence={divergence}", "name=two", f"out={tmp_path}", *small, cwd=tmp_path)
        succeeded(ran)
    commands = sweep_commands(tmp_path / "two")
    typed = [next(typed for typed in each["typed"] if "divergence" in typed) for each in commands]
    assert typed == ["divergence=kl", "divergence=none"]
