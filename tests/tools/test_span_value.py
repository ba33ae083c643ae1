"""Re-rolled success rates of a policy whose success is known, and the command on a real run."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli import SMALL, folder, rows, succeeded, train

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.tools.span_value import Rerolls, main

PROMPT = Prompt(uid="q", question="?", gold="3", demonstration="")


class Known:
    """Continues every beginning with 0, 1, 2, ... in turn; right when the sum of all tokens is even."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.budget = 0

    def generate(self, model, request):
        self.asked, self.budget = [list(ids) for ids in request.prompt_ids], request.max_new_tokens
        return [
            SimpleNamespace(group=group, ids=[roll])
            for group in range(len(request.prompts))
            for roll in range(request.group_size)
        ]

    def __call__(self, texts, prompts):
        return [
            Verdict(
                reward=float(sum(map(int, text)) % 2 == 0),
                strict=True,
                flexible=True,
                correct=True,
                outcome="",
            )
            for text in texts
        ]


def test_each_beginning_has_the_success_rate_of_its_own_continuations_and_equal_ones_are_rolled_once() -> (
    None
):
    world = Known()
    policy = SimpleNamespace(decode=lambda ids: "".join(map(str, ids)))
    reroll = Rerolls(
        components=SimpleNamespace(eval_rollout=world, reward=world),
        policy=policy,
        config={"max_new_tokens": 9, "temperature": 1.0},
        rolls=3,
    )
    # Continuations 0, 1, 2: two of three are even after an even beginning, one after an odd one.
    assert reroll(PROMPT, [7, 7], [[2], [2, 1], [2], []], seed=0) == pytest.approx(
        [2 / 3, 1 / 3, 2 / 3, 2 / 3]
    )
    assert world.asked == [[7, 7, 2], [7, 7, 2, 1], [7, 7]] and world.budget == 9


def test_an_answer_is_judged_up_to_its_whole_budget_wherever_it_was_begun() -> None:
    world = Known()
    policy = SimpleNamespace(decode=lambda ids: "".join(map(str, ids)))
    reroll = Rerolls(
        components=SimpleNamespace(eval_rollout=world, reward=world),
        policy=policy,
        config={"max_new_tokens": 2, "temperature": 1.0},
        rolls=3,
    )
    # A beginning of two tokens has no room for another.
    assert reroll(PROMPT, [7], [[1, 1], [1]], seed=0) == pytest.approx([1.0, 1 / 3]) and world.budget == 1


def test_the_command_writes_one_row_a_span_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(train(*SMALL, "steps=1", "max_new_tokens=100", f"out={tmp_path}", cwd=tmp_path))
    run = folder(tmp_path)
    monkeypatch.setattr(sys, "argv", ["credit_truth", str(run), "--completions", "4", "--rolls", "2"])
    main()
    found = rows(run / "credit_truth.jsonl")
    assert {row["kind"] for row in found} == {"calculation", "scaffolding"} and len(
        {row["uid"] for row in found}
    ) > 1
    assert all(0 <= row[place] <= 1 for row in found for place in ("before", "after"))
    assert all(
        row["direct"] != row["answer"] for row in found if row["kind"] == "calculation" and row["last"]
    )
    assert all(
        row["downstream"] > row["answer"] - 1e-3
        for row in found
        if row["kind"] == "calculation" and row["position"] == 1
    )
    assert json.loads((run / "manifest.json").read_text())["state"] == "done"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["credit_truth", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no finished run"):
        main()
