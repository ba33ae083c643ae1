"""One cell from the command line: what it leaves, what stops it, what a relaunch does."""

import json
import random
import shutil
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from cli import (
    ROOT,
    SMALL,
    appeared,
    cell_here,
    command,
    environment,
    folder,
    folders,
    manifest,
    rows,
    succeeded,
    train,
    train_in_new_python,
    whole_rows,
)
from hydra.errors import ConfigCompositionException
from safetensors.torch import load_file

from mirrorpo.core.batch import Prompt
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.train import loaded
from mirrorpo.train.build import build_components
from mirrorpo.train.loaded import Loader
from mirrorpo.train.model_check import ModelCheck
from mirrorpo.train.questions import Questions


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    result = train_in_new_python(*SMALL, f"out={out}", cwd=out)
    succeeded(result, said=["held-out questions", "metrics.jsonl"])
    return out


def test_a_model_from_scratch_has_words_for_the_questions_of_an_evaluation_too() -> None:
    first, other = (
        Prompt(uid=word, question=word, gold="1", demonstration="#### 1") for word in ("sun", "owl")
    )
    questions = Questions(train=[first], evaluation=[other], left_out={}, content={})
    assert list(loaded.corpus_of(questions)) == ["sun\n", "#### 1", "owl\n"]


def test_a_run_leaves_every_file_of_the_design(finished: Path) -> None:
    run = folder(finished)
    assert run.name == "seed=0" and run.parent.parent.name == "single"
    entry = manifest(run)
    assert entry["state"] == "done" and entry["error"] is None and entry["ended"]
    assert entry["config"]["steps"] == 3 and entry["versions"]["torch"] and len(entry["config_hash"]) == 16
    assert entry["prompt"]["example"].endswith("?\n") and entry["data"]["train"] and entry["reward_version"]
    metrics = rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2, 3]
    assert {
        "reward/mean",
        "ratio/clip_fraction",
        "kl/reference",
        "divergence/value",
        "entropy/mean",
        "grad/norm",
    } <= metrics[1].keys()
    assert (
        all("eval/greedy_accuracy" in metrics[step] for step in (0, 2, 3))
        and "eval/greedy_accuracy" not in metrics[1]
    )
    timings = rows(run / "timings.jsonl")
    assert len(timings) == 4
    for name, total in (("completions", "budget/completions"), ("tokens", "budget/tokens_sampled")):
        sums = accumulate(row.get(f"rollout/{name}", 0.0) for row in metrics)
        assert [row[total] for row in metrics] == list(sums), total
    flops = [row["budget/flops"] for row in metrics]
    assert flops[0] == 0 and flops[1] < flops[2] < flops[3]
    spent = accumulate(row["seconds"] for row in timings)
    assert [row["budget/device_s"] for row in timings] == pytest.approx(list(spent))
    answers = rows(run / "eval" / "step_000003.jsonl")
    assert (
        len(answers) == 12
        and {"uid", "strict", "flexible", "tokens", "truncated", "completion"} <= answers[0].keys()
    )
    # A file for all steps: a thousand runs of a thousand steps are not to be two million files.
    shown = (run / "completions.md").read_text()
    assert [f"# Step {step}\n" in shown for step in range(5)] == [False, True, True, True, False]
    assert {row["step"] for row in rows(run / "credit.jsonl")} == {1, 2, 3}
    assert "credit.jsonl" in manifest(run)["sha256_beside"] and not (run / "credit").exists()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_000002", "step_000003"]


def test_policy_self_test_and_reference_have_the_head_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def checked(model: LanguageModel, *_: object, **__: object) -> tuple[LanguageModel, ModelCheck]:
        tried.append(model.head(0.7).precision)
        return model, ModelCheck(gaps={}, closed={})

    monkeypatch.setattr(loaded, "checked", checked)
    components = build_components(cell_here("head_precision=bf16_in").config)
    loader = Loader(components=components, device=torch.device("cpu"), ranks=ALONE)
    models = loader._models(Questions(train=[], evaluation=[], left_out={}, content={}))
    (reference,) = models.references
    heads = [models.policy.head(0.7), reference.head(0.7)]
    assert [*tried, *(head.precision for head in heads)] == ["bf16_in"] * 3


def test_the_first_update_is_on_policy_and_the_sampler_agrees_with_the_trainer(finished: Path) -> None:
    first = rows(folder(finished) / "metrics.jsonl")[1]
    assert first["ratio/mean"] == 1.0 and first["ratio/clip_fraction"] == 0.0 and first["kl/old"] == 0.0
    assert 0 <= first["kl/sampler"] < 1e-9 and first["kl/reference"] == pytest.approx(0, abs=1e-12)


def test_the_policy_folder_is_a_hugging_face_model_that_has_moved(finished: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = folder(finished)
    trained = AutoModelForCausalLM.from_pretrained(run / "policy")
    start = AutoModelForCausalLM.from_pretrained(ROOT / "src/mirrorpo/model/tiny")
    assert AutoTokenizer.from_pretrained(run / "policy")("Sam has 3 toys.").input_ids
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert all(moved)
    # With its card, which the manifest knows too.
    card = (run / "policy" / "README.md").read_text()
    assert f"- config: `{manifest(run)['config_hash']}`" in card and "| greedy accuracy |" in card
    assert "policy/README.md" in manifest(run)["sha256"]


def test_a_second_launch_does_nothing_and_says_so(finished: Path) -> None:
    before = (folder(finished) / "manifest.json").stat().st_mtime_ns
    succeeded(train(*SMALL, f"out={finished}", cwd=finished), said=["done already, nothing to do"])
    assert (folder(finished) / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    # With another hash seed than the first one's.
    succeeded(train_in_new_python(*SMALL, f"out={tmp_path / 'again'}", cwd=tmp_path))
    succeeded(train(*SMALL, "seed=1", f"out={tmp_path / 'other'}", cwd=tmp_path))
    first, again, other = (
        (folder(root) / "metrics.jsonl").read_bytes()
        for root in (finished, tmp_path / "again", tmp_path / "other")
    )
    assert first == again != other


def test_a_folder_with_another_config_is_refused_with_the_keys_that_differ(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    run = folder(tmp_path / "copy")
    text = (
        (run / "manifest.json")
        .read_text()
        .replace('"lr": 0.0005', '"lr": 0.25')
        .replace(manifest(run)["config_hash"], "0" * 16)
    )
    (run / "manifest.json").write_text(text)
    result = train(*SMALL, f"out={tmp_path / 'copy'}", cwd=tmp_path)
    assert result.returncode == 1 and "lr: was 0.25, is 0.0005" in result.stderr


def test_a_done_run_with_half_its_checkpoints_gone_resumes_to_the_same_numbers(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    run = folder(tmp_path / "copy")
    shutil.rmtree(run / "checkpoints" / "step_000003")
    entry = manifest(run)
    assert entry["tokens_per_call"] == {"tokens": 128, "source": "of a CPU"}
    assert entry["deterministic"] == {"requested": True, "holds": "yes"}
    # On a card a call may cost something else by now, and batches have to be split as they were.
    begun = {"tokens": 129, "source": "measured when the run began"}
    (run / "manifest.json").write_text(json.dumps(entry | {"tokens_per_call": begun}))
    succeeded(train(*SMALL, f"out={tmp_path / 'copy'}", cwd=tmp_path), said=["resuming after step 2 of 3"])
    assert manifest(run)["tokens_per_call"] == begun
    assert (run / "metrics.jsonl").read_bytes() == (folder(finished) / "metrics.jsonl").read_bytes()
    assert manifest(run)["state"] == "done" and len(manifest(run)["launches"]) == 2


def test_a_done_run_without_checkpoints_is_done(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(folder(tmp_path / "copy") / "checkpoints")
    succeeded(train(*SMALL, f"out={tmp_path / 'copy'}", cwd=tmp_path), said=["done already, nothing to do"])


def test_a_run_whose_evaluations_are_gone_starts_over_and_keeps_the_old_rows_aside(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    run = folder(tmp_path / "copy")
    shutil.rmtree(run / "eval")
    before = (run / "metrics.jsonl").read_bytes()
    result = train(*SMALL, f"out={tmp_path / 'copy'}", cwd=tmp_path)
    succeeded(result)
    assert "starting over" in result.stderr
    assert (
        (run / "metrics.jsonl").read_bytes() == before == (run / "metrics.before_restart.jsonl").read_bytes()
    )


def test_a_folder_that_cannot_be_written_is_named_with_its_knob(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for more in ([], ["-m"]):
        result = train(*more, *SMALL, f"out={tmp_path / 'file'}", cwd=tmp_path)
        assert (
            result.returncode == 1
            and "set out= to a folder that can be written to" in result.stdout + result.stderr
        )
        assert "Traceback" not in result.stderr


def test_zero_steps_evaluate_the_start_model_only(finished: Path, tmp_path: Path) -> None:
    # With the screen and right answers read, which change no other number.
    more = ["contamination_questions=5", "right_answer_questions=5"]
    succeeded(train(*SMALL, "steps=0", *more, f"out={tmp_path}", cwd=tmp_path))
    run = folder(tmp_path)
    (row,) = rows(run / "metrics.jsonl")
    assert row["step"] == 0 and row["eval/questions"] == 12
    screened = {key: row.pop(key) for key in [*row] if key.startswith("contamination/")}
    read = {key: row.pop(key) for key in [*row] if key.startswith("eval/right_answer")}
    assert 1 <= read["eval/right_answers"] <= 5
    assert read["eval/right_answer_log_prob"] < read["eval/right_answer_token_log_prob"] < 0
    assert row == rows(folder(finished) / "metrics.jsonl")[0]
    asked = rows(run / "eval" / "contamination.jsonl")
    assert [entry["uid"] for entry in asked] == [
        entry["uid"] for entry in rows(run / "eval" / "step_000000.jsonl")[:5]
    ]
    assert screened["contamination/questions"] == 5
    assert screened["contamination/exact"] == sum(entry["exact"] for entry in asked) / 5
    assert "eval/contamination.jsonl" in manifest(run)["files"]


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    # Two updates on a rollout, dynamic sampling, dropout, coefficients that are steered, random weights:
    # everything that carries state.
    overrides = [
        *SMALL,
        "algo=dapo",
        "updates_per_rollout=2",
        "divergence=probl2_exact",
        "lora@model.lora=r16",
        "steps=4",
        "entropy.target=0.07",
    ]
    overrides += ["beta_schedule=matched_drift", "weighting=random_token", "entropy=adaptive"]
    succeeded(train(*overrides, f"out={tmp_path / 'whole'}", cwd=tmp_path))
    process = subprocess.Popen(
        command(*overrides, f"out={tmp_path / 'killed'}"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not appeared(tmp_path / "killed", "step_000002"):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert manifest(folder(tmp_path / "killed"))["state"] == "running"
    succeeded(train(*overrides, f"out={tmp_path / 'killed'}", cwd=tmp_path), said=["resuming after step"])
    whole, killed = folder(tmp_path / "whole"), folder(tmp_path / "killed")
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    # Steps of two processes.
    timings = rows(killed / "timings.jsonl")
    spent = accumulate(row["seconds"] for row in timings)
    assert [row["budget/device_s"] for row in timings] == pytest.approx(list(spent))
    assert (whole / "eval" / "step_000004.jsonl").read_bytes() == (
        killed / "eval" / "step_000004.jsonl"
    ).read_bytes()


# Writes of the checkpoint of step 2, when it is written in the background, last for ever.
STUCK = """
import os, sys, threading, time
fsync = os.fsync
def slow(handle):
    name = os.readlink(f"/proc/self/fd/{handle}")
    if ".step_000002" in name and threading.current_thread() is not threading.main_thread():
        time.sleep(1000)
    fsync(handle)
os.fsync = slow
from mirrorpo.launch.train import main
main()
"""


@pytest.mark.slow
def test_a_run_trains_on_while_its_checkpoint_is_written_and_a_kill_then_costs_that_one(
    finished: Path, tmp_path: Path
) -> None:
    arguments = (*SMALL, f"out={tmp_path}")
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(
        '"step": 3' in path.read_text() for path in tmp_path.rglob("metrics.jsonl")
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    run = folder(tmp_path)
    assert sorted(path.name for path in run.glob("checkpoints/step_*")) == ["step_000001"]
    assert (run / "checkpoints" / ".step_000002" / "state.pt").stat().st_size > 1_000_000
    succeeded(train(*arguments, cwd=tmp_path), said=["resuming after step 1 of 3"])
    assert (run / "metrics.jsonl").read_bytes() == (folder(finished) / "metrics.jsonl").read_bytes()
    assert sorted(path.name for path in run.glob("checkpoints/step_*")) == ["step_000002", "step_000003"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_compiled_run_goes_on_to_the_same_end_in_a_process_that_compiles_anew(
    finished: Path, tmp_path: Path
) -> None:
    def launch(name: str) -> subprocess.CompletedProcess[str]:
        # Nothing lies compiled for it.
        environ = environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / f"cache_{name}"))
        line = command(*SMALL, "compile=layers", f"out={tmp_path / name}")
        return subprocess.run(
            line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1400, check=False
        )

    succeeded(launch("first"))
    first = folder(tmp_path / "first")
    plain, compiled = (rows(run / "metrics.jsonl")[1] for run in (folder(finished), first))
    assert plain["reward/mean"] == compiled["reward/mean"]
    assert abs(plain["grad/norm"] - compiled["grad/norm"]) < 1e-5 * plain["grad/norm"]
    # Its first batches are others.
    shutil.copytree(tmp_path / "first", tmp_path / "again")
    again = folder(tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step_000003")
    succeeded(launch("again"), said=["resuming after step 2"])
    assert (again / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()
    assert not any("_orig_mod" in name for name in load_file(first / "policy" / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_at_ten_random_instants_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    overrides = [
        *SMALL,
        "steps=120",
        "updates_per_rollout=2",
        "update_window=split",
        "prompts_per_step=4",
        "checkpoint_every=2",
        "eval_every=40",
    ]
    succeeded(train(*overrides, f"out={tmp_path / 'whole'}", cwd=tmp_path))
    rng = random.Random(2026)
    reached: list[int] = []
    while len(reached) < 10:
        process = subprocess.Popen(
            command(*overrides, f"out={tmp_path / 'killed'}"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # From the start of Python to some steps past the start of training.
        time.sleep(rng.uniform(0.5, 11))
        assert process.poll() is None, f"the run ended before ten kills, after {reached}"
        process.kill()
        process.wait()
        paths = (tmp_path / "killed").rglob("metrics.jsonl")
        reached.append(max((row["step"] for path in paths for row in whole_rows(path)), default=-1))
    print(f"killed with {reached} as the last step on disk")
    assert len(set(reached)) > 3
    succeeded(train(*overrides, f"out={tmp_path / 'killed'}", cwd=tmp_path))
    whole, killed = folder(tmp_path / "whole"), folder(tmp_path / "killed")
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "README.md"):
        assert (whole / "policy" / name).read_bytes() == (killed / "policy" / name).read_bytes(), name


@pytest.mark.slow
def test_drift_is_measured_for_every_arm_from_zero_and_the_coefficient_follows_it_where_it_is_steered(
    tmp_path: Path,
) -> None:
    for arm in ("divergence=none", "beta_schedule=matched_drift divergence=probl2 beta_schedule.target=1e-9"):
        succeeded(train(*SMALL, *arm.split(), f"out={tmp_path}", cwd=tmp_path))
    free, held = (rows(run / "metrics.jsonl") for run in folders(tmp_path))
    for run in (free, held):
        assert [run[0][f"drift/{name}"] for name in ("kl", "probl2", "tv")] == [0.0, 0.0, 0.0]
        assert all(row["drift/kl"] > 0 and row["drift/probl2"] > 0 and row["drift/tv"] > 0 for row in run[1:])
    assert [row["divergence/beta"] for row in free[1:]] == [0.0, 0.0, 0.0]
    assert [row["divergence/beta"] for row in held[1:]] == pytest.approx([1e-4, 1.5e-4, 2.25e-4])


def test_a_loss_that_is_not_finite_stops_the_run_with_the_batch_dumped(tmp_path: Path) -> None:
    result = train(*SMALL, "lr=1e30", "max_grad_norm=0", f"out={tmp_path}", cwd=tmp_path)
    run = folder(tmp_path)
    assert result.returncode != 0 and manifest(run)["state"] == "failed"
    assert "NotFinite" in manifest(run)["error"] and "not_finite_step_" in manifest(run)["error"]
    assert list(run.glob("not_finite_step_*.pt")) and "Traceback" in (run / "error.txt").read_text()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stepz=3", "stepz"),
        ("steps=three", "steps"),
        ("+foo=1", "unknown settings ['foo']"),
        ("algo=nope", "algo=nope: there is no such choice"),
        ("sweep=nope", "sweep=nope: there is no such choice"),
        ("group_size=1", "error: group_size=1"),
        ("divergence.beta=-1", "divergence.beta=-1"),
        ("max_new_tokens=500 eval_questions=0", "the model has 512 positions"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_runs(override: str, words: str, tmp_path: Path) -> None:
    result = train(*SMALL, *override.split(), f"out={tmp_path}", cwd=tmp_path)
    assert result.returncode != 0 and words in result.stdout + result.stderr, result.stderr
    assert not any(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algo.surrogate.hihg=0.3", "hihg"),
        ("group_size=1", "use group_size=2 or more"),
        ("dataset.max_value=3", "dataset.max_value=3"),
        ("temperature=0", "temperature=0"),
        ("lr=inf", "lr=inf"),
        ("algo.surrogate.low=abc", "algo.surrogate.low='abc': give a number"),
        ("algo.advantage.ddof=5", "ddof=5"),
        ("name=../up", "name='../up'"),
        ("divergence.anchor=nowhere", "divergence.anchor=nowhere"),
        ("beta_schedule=matched_drift divergence=none", "divergence.beta=0 with beta_schedule=matched_drift"),
        (
            "beta_schedule=matched_drift divergence.anchor=old",
            "divergence.anchor=old, or an anchor that moves, with beta_schedule=matched_drift",
        ),
        (
            "beta_schedule=matched_drift drift_questions=0",
            "drift_questions=0 with beta_schedule=matched_drift",
        ),
        (
            "beta_schedule=matched_drift drift_every=5",
            "drift_every=5 with beta_schedule=matched_drift: beta is steered after every step",
        ),
        ("drift_every=0", "drift_every=0: needs at least 1"),
        ("right_answer_questions=13", "the first ones of eval_questions=12; give at most as many"),
        ("contamination_questions=13", "the first ones of eval_questions=12; give at most as many"),
        (
            "beta_schedule=matched_drift beta_schedule.measure=drift/js",
            "beta_schedule.measure=drift/js: choose one of drift/kl",
        ),
        ("weighting=entropy_top20 weighting.share=1.5", "weighting.share=1.5"),
    ],
)
def test_a_bad_setting_is_refused_when_the_cell_is_put_together(override: str, words: str) -> None:
    # What train.py does before it trains; it says such an error and ends.
    with pytest.raises((ValueError, ConfigCompositionException)) as refused:
        build_components(cell_here(*SMALL, *override.split()).config)
    assert words in f"{refused.value} {refused.value.__cause__}"


@pytest.mark.slow
def test_supervised_fine_tuning_from_nothing_lowers_the_loss(tmp_path: Path) -> None:
    overrides = (
        "algo=sft",
        "model=tiny_scratch",
        "dataset.train_size=400",
        "steps=25",
        "eval_questions=0",
        "threads=1",
        "tracking=none",
    )
    succeeded(train(*overrides, f"out={tmp_path}", cwd=tmp_path))
    metrics = rows(folder(tmp_path) / "metrics.jsonl")
    assert metrics[0]["loss/value"] > 3 and metrics[-1]["loss/value"] < 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_cell_learns(seed: int, tmp_path: Path) -> None:
    succeeded(train(f"seed={seed}", f"out={tmp_path}", "tracking=none", cwd=tmp_path))
    metrics = rows(folder(tmp_path) / "metrics.jsonl")
    assert metrics[-1]["eval/greedy_accuracy"] - metrics[0]["eval/greedy_accuracy"] >= 0.2
