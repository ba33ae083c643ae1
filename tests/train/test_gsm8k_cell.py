"""The papers' cell on a local Qwen3 folder and real GSM8K questions, as far as it goes without a network."""

from pathlib import Path

import pytest
from cli import folder, folders, manifest, rows, succeeded, train, train_in_new_python
from real_data import DATA, needs
from small_models import write_qwen3

needs_data = needs("gsm8k/train.jsonl")
SHORT = (
    "steps=2",
    "prompts_per_step=2",
    "group_size=2",
    "max_new_tokens=12",
    "eval_questions=3",
    "eval_sampled_questions=1",
    "eval_samples=2",
    "threads=1",
    "tokens_per_micro_batch=512",
    "logit_chunk=7",
)


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of small width with random weights and a byte-level tokenizer."""
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@needs_data
def test_the_papers_command_trains_and_evaluates_on_real_questions(qwen_folder: Path, tmp_path: Path) -> None:
    command = ("-m", "algo=grpo", "divergence=probl2,kl", "model=qwen", f"model.path={qwen_folder}")
    succeeded(train(*command, *SHORT, f"out={tmp_path}", cwd=tmp_path, MIRRORPO_DATA=str(DATA)))
    runs = folders(tmp_path)
    assert [manifest(run)["choices"]["divergence"] for run in runs] == ["kl", "probl2"]
    for run in runs:
        entry = manifest(run)
        assert entry["state"] == "done" and entry["choices"]["dataset"] == "gsm8k"
        assert (
            "<think>\n\n</think>" in entry["prompt"]["example"] and "\\boxed{" in entry["prompt"]["example"]
        )
        assert [row["step"] for row in rows(run / "metrics.jsonl")] == [0, 1, 2]
        answers = rows(run / "eval" / "step_000002.jsonl")
        assert len(answers) == 3 and all(row["uid"].startswith("gsm8k/train/") for row in answers)
        # The default mirror really wrote an offline run under the id that the config gives it.
        assert list(run.rglob(f"run-{entry['wandb_id']}.wandb"))


@needs_data
def test_adapters_train_and_the_reference_is_the_adapter_switched_off(
    qwen_folder: Path, tmp_path: Path
) -> None:
    lora = ("lora@model.lora=r16", "model.dtype=bfloat16", "lr=0.01")
    succeeded(
        train(
            "model=qwen",
            f"model.path={qwen_folder}",
            *lora,
            *SHORT,
            "tracking=none",
            f"out={tmp_path}",
            cwd=tmp_path,
            MIRRORPO_DATA=str(DATA),
        )
    )
    run = folder(tmp_path)
    assert manifest(run)["parameters"]["trained"] < manifest(run)["parameters"]["all"] / 2
    assert (run / "policy" / "adapter_model.safetensors").exists()
    metrics = rows(run / "metrics.jsonl")
    assert metrics[1]["kl/reference"] == pytest.approx(0, abs=1e-3)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    empty = {"HF_HOME": str(tmp_path / "hub"), "MIRRORPO_DATA": ""}
    result = train_in_new_python(
        "-m",
        "algo=grpo",
        "divergence=probl2,kl",
        "model=qwen",
        "tracking=none",
        f"out={tmp_path}",
        cwd=tmp_path,
        **empty,
    )
    assert result.returncode == 1 and "2 of 2 cells failed" in result.stdout
    assert "Set MIRRORPO_DATA to a folder" in result.stdout


@needs_data
def test_without_the_weights_the_error_names_the_model_and_the_fix(tmp_path: Path) -> None:
    empty = {"HF_HOME": str(tmp_path / "hub"), "MIRRORPO_DATA": str(DATA)}
    cell = ("model=qwen", "tracking=none", f"out={tmp_path}")
    result = train_in_new_python(*cell, cwd=tmp_path, **empty)
    assert result.returncode == 1
    assert (
        "model.path=Qwen/Qwen3-1.7B: cannot be loaded" in result.stderr
        and "hf download Qwen/Qwen3-1.7B" in result.stderr
    )


def test_a_model_that_lacks_the_words_of_the_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    lines = [
        f'{{"question": "Natalia sold {n} clips. How many?", "answer": "{n}.\\n#### {n}"}}\n'
        for n in range(40)
    ]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("".join(lines))
    result = train(
        "dataset=gsm8k", *SHORT, "tracking=none", f"out={tmp_path}", cwd=tmp_path, MIRRORPO_DATA=str(tmp_path)
    )
    assert (
        result.returncode == 1
        and "this model's vocabulary lacks words of the prompt 'Natalia sold" in result.stderr
    )
