"""Paper B's second task on a local Qwen3 folder and real problems, as far as it goes without a network."""

from pathlib import Path

import pytest
from cli import folder, manifest, rows, succeeded, train
from kernel import needs_any
from real_data import DATA, needs
from small_models import write_qwen3

needs_data = needs("mbpp/mbpp.jsonl")
SHORT = (
    "steps=2",
    "prompts_per_step=2",
    "group_size=2",
    "max_new_tokens=12",
    "eval_max_new_tokens=12",
    "eval_questions=3",
    "eval_sampled_questions=1",
    "eval_samples=2",
    "threads=1",
    "tokens_per_micro_batch=1024",
    "logit_chunk=7",
    "tracking=none",
)


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_any()
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@needs_data
def test_two_steps_on_mbpp_say_what_kept_the_programs_in(qwen_folder: Path, tmp_path: Path) -> None:
    arms = ("weighting=counterfactual_code", "shaping@reward.shaping=public")
    succeeded(
        train(
            "dataset=mbpp",
            "model=qwen",
            f"model.path={qwen_folder}",
            *arms,
            *SHORT,
            f"out={tmp_path}",
            cwd=tmp_path,
            MIRRORPO_DATA=str(DATA),
        )
    )
    run = folder(tmp_path)
    entry = manifest(run)
    assert entry["state"] == "done" and "seccomp" in entry["sandbox"] and "UNSAFE" not in entry["sandbox"]
    assert entry["reward_version"].startswith("code_tests/") and entry["bad_data"] == {}
    assert "Write this function." in entry["prompt"]["example"]
    metrics = rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2]
    # Bytes at random are no program; the public shaping makes that less than nothing.
    assert (
        metrics[1]["outcome/passed" if "outcome/passed" in metrics[1] else "outcome/unverifiable"] == 0
        and metrics[1]["reward/mean"] < 0
    )
    answers = rows(run / "eval" / "step_000002.jsonl")
    assert [row["uid"] for row in answers] == ["mbpp/511", "mbpp/512", "mbpp/513"]
    assert all(row["right"] is False and row["tokens"] > 0 for row in answers)
    assert {"eval/pass@1", "eval/pass@2", "eval/length"} <= set(metrics[2])


@needs_data
def test_humaneval_is_evaluated_from_the_start_model(qwen_folder: Path, tmp_path: Path) -> None:
    small = (
        "eval_questions=3",
        "eval_sampled_questions=1",
        "eval_samples=2",
        "eval_max_new_tokens=12",
        "threads=1",
        "tracking=none",
    )
    command = ("dataset=humaneval", "model=qwen", f"model.path={qwen_folder}", *small, f"out={tmp_path}")
    succeeded(train(*command, cwd=tmp_path, MIRRORPO_DATA=str(DATA)))
    run = folder(tmp_path)
    assert [row["uid"] for row in rows(run / "eval" / "step_000000.jsonl")] == [
        "humaneval/000",
        "humaneval/001",
        "humaneval/002",
    ]


@pytest.mark.slow
@needs_data
def test_programs_and_answers_are_evaluated_in_one_run_each_by_its_own_reward(
    qwen_folder: Path, tmp_path: Path
) -> None:
    sets = "eval_datasets=[mbpp,{short:{dataset:humaneval,eval_questions:2}}]"
    command = ("dataset=gsm8k", "model=qwen", f"model.path={qwen_folder}", *SHORT, sets, f"out={tmp_path}")
    succeeded(train(*command, cwd=tmp_path, MIRRORPO_DATA=str(DATA)))
    run = folder(tmp_path)
    entry, last = manifest(run), rows(run / "metrics.jsonl")[-1]
    assert entry["sandbox"] is None and entry["reward_version"].startswith("math_answer/")
    for name, uid in (("mbpp", "mbpp/511"), ("short", "humaneval/000")):
        of_set = entry["eval_sets"][name]
        assert "seccomp" in of_set["sandbox"] and of_set["reward_version"].startswith("code_tests/")
        answers = rows(run / "eval" / name / "step_000002.jsonl")
        assert answers[0]["uid"] == uid and all(row["tokens"] <= 12 for row in answers)
        # Programs have no vote.
        assert f"eval/{name}/avg@2" in last and f"eval/{name}/maj@2" not in last
    assert "eval/maj@2" in last and last["eval/short/questions"] == 2
    assert "\\boxed{" in entry["prompt"]["example"]
    assert "Write this function." in entry["eval_sets"]["mbpp"]["prompt"]["example"]
