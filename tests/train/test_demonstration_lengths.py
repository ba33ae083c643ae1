"""Demonstrations that an answer has no room for are told ahead of the first step, with the length."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli import folder, manifest, rows, succeeded, train
from engines import TokenizerOnly

from mirrorpo.core.batch import Prompt
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.train.demonstration_lengths import cut_demonstrations

LINE = "a 7 + 0 = 7"
# Six tokens and the end.
SHORT, LONG = LINE, "\n".join([LINE] * 3)
POLICY: Any = TokenizerOnly(tokenizer=word_tokenizer([LONG]))
LENGTH = len(POLICY.tokenizer(LONG).input_ids) + 1


def prompts(short: int, long: int) -> list[Prompt]:
    texts = [SHORT] * short + [LONG] * long
    return [Prompt(uid=str(n), question="", gold="7", demonstration=text) for n, text in enumerate(texts)]


def cut(short: int, long: int, limit: int, engine: Any = None, steps: int = 1) -> list[str]:
    config = {"max_new_tokens": limit, "steps": steps}
    return cut_demonstrations(engine or Demonstrations(), POLICY, prompts(short, long), config)


def test_more_than_a_tenth_cut_is_refused_with_the_length_that_is_needed() -> None:
    limit = LENGTH - 1
    with pytest.raises(ValueError, match=rf"^max_new_tokens={limit}: 2 of 19 .* max_new_tokens={LENGTH}$"):
        cut(17, 2, limit)
    assert cut(17, 2, LENGTH) == []


def test_a_few_are_told() -> None:
    (note,) = cut(18, 2, LENGTH - 1)
    assert note.startswith(f"max_new_tokens={LENGTH - 1}: 2 of 20 demonstrations are longer")


def test_what_trains_on_none_has_none_that_are_cut() -> None:
    assert cut(0, 2, 1, engine=SimpleNamespace(samples=True)) == [] and cut(0, 2, 1, steps=0) == []


SFT = (
    "algo=sft",
    "model=ledger_scratch",
    "dataset.copies=2",
    "dataset.demonstrations=2",
    "dataset.short_until=0",
    "steps=3",
    "prompts_per_step=4",
)
FEW = ("eval_questions=0", "eval_sampled_questions=0", "threads=1", "tracking=none")


def test_a_knob_of_the_ledger_from_its_start_model_to_reinforcement(tmp_path: Path) -> None:
    refused = train(*SFT, *FEW, "name=refused", cwd=tmp_path)
    assert refused.returncode == 1
    line = refused.stderr.strip()
    assert re.fullmatch(r"error: max_new_tokens=64: 320 of 320 demonstrations .* max_new_tokens=115", line)
    succeeded(train(*SFT, *FEW, "max_new_tokens=128", "out=sft", cwd=tmp_path))
    made = folder(tmp_path / "sft")
    steps = rows(made / "metrics.jsonl")
    assert [row["completion/truncated"] for row in steps] == [0.0] * 3
    assert steps[-1]["completion/length"] == 115
    knob = ("dataset.copies=2", "max_new_tokens=128")
    small = ("steps=2", "prompts_per_step=2", "group_size=2")
    trained = train(
        "model=ledger", f"model.path={made}", "algo=dr_grpo", *knob, *small, *FEW, "out=rl", cwd=tmp_path
    )
    succeeded(trained)
    assert "dataset.copies" not in trained.stdout + trained.stderr
    assert manifest(folder(tmp_path / "rl"))["model_run"]["folder"] == str(made)


def test_a_model_from_nothing_gets_the_positions_that_it_is_told(tmp_path: Path) -> None:
    long = ("dataset.letters=16", "dataset.copies=3", "dataset.distance=4", "max_new_tokens=400", "steps=1")
    settings = (*SFT, *long, *FEW)
    refused = train(*settings, cwd=tmp_path)
    fix = re.search(
        r"set (model\.architecture\.max_position_embeddings=\d+) or more$", refused.stderr.strip()
    )
    assert refused.returncode == 1 and fix is not None
    succeeded(train(*settings, fix[1], "out=long", cwd=tmp_path))
