"""Tasksets of the verifiers package as questions and rewards, by the package itself where it is installed."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from cli import SMALL, cell_here, folder, manifest, rows, succeeded, train_in_new_python

from mirrorpo.dataset.verifiers import VerifiersTasks
from mirrorpo.reward.verifiers import VerifiersRewards
from mirrorpo.text import verifiers_tasks
from mirrorpo.train.build import build_components
from mirrorpo.train.questions import load_questions

# Sums in words of the shipped tiny model, with two rewards; `kind` breaks them in ways that are refused.
SUMS = """
import asyncio
from typing import Literal
import verifiers.v1 as vf

class SumData(vf.TaskData):
    answer: str
    kind: str = "plain"

class SumTask(vf.Task[SumData]):
    @vf.reward(weight=1.0)
    async def right(self, trace) -> float:
        if self.data.kind == "slow":
            await asyncio.sleep(30)
        return float(trace.last_reply.rstrip().endswith(self.data.answer))

    @vf.reward(weight=0.5)
    async def brief(self, task, trace) -> float:
        if "boom" in trace.last_reply:
            raise KeyError("boom")
        assert task.answer == self.data.answer and trace.num_turns == 1
        return 1.0 if len(trace.last_reply) < 60 else 0.0

class BoxedTask(SumTask):
    @vf.reward
    async def exit_code(self, runtime) -> float:
        return 0.0

class PreparedTask(SumTask):
    async def setup(self, trace, runtime) -> None:
        pass

class SumConfig(vf.TasksetConfig):
    kind: str = "plain"
    first: int = 0

class Sums(vf.Taskset[SumTask, SumConfig]):
    @classmethod
    def task_type(cls):
        return PreparedTask if cls.kind == "prepared" else SumTask

    kind = "plain"

    def load(self):
        kind = type(self).kind = self.config.kind
        for index in range(self.config.first, self.config.first + 40):
            a, b = index % 9 + 1, index // 9 + 1
            prompt = f"Tom has {a} apples. Tom buys {b} more. How many apples does Tom have?"
            if kind in ("turns", "dialogue"):
                prompt = [vf.UserMessage(content=prompt)] * (2 if kind == "dialogue" else 1)
            data = SumData(prompt=prompt, answer=str(a + b), kind=kind)
            yield (BoxedTask if kind == "boxed" else SumTask)(data, self.config.task)

__all__ = ["Sums"]
"""
TOM = "Tom has {a} apples. Tom buys {b} more. How many apples does Tom have?"


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an installed taskset."""
    pytest.importorskip("verifiers")
    (tmp_path / "tiny_sums.py").write_text(SUMS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_sums", raising=False)
    verifiers_tasks._tasks.cache_clear()
    return "tiny-sums"


def settings(**changes: Any) -> dict[str, Any]:
    return {"taskset": "tiny-sums", "settings": {}, "train": {}, "test": None, "limit": None} | changes


def dataset(gold: str | None = "answer", **changes: Any) -> VerifiersTasks:
    shares = {"validation_fraction": 0.2, "test_fraction": 0.2, "system": "", "user": "{question}"}
    return VerifiersTasks(gold=gold, **(shares | settings(**changes)))


def reward(**changes: Any) -> VerifiersRewards:
    return VerifiersRewards(correct_at=1.0, timeout_s=changes.pop("timeout_s", 60.0), **settings(**changes))


def test_tasks_are_questions_in_three_splits_that_share_none(sums: str) -> None:
    splits = {split: dataset().load(split) for split in ("train", "validation", "test")}
    uids = [prompt.uid for prompts in splits.values() for prompt in prompts]
    assert len(set(uids)) == len(uids) == 40 and all(splits.values())
    first = dataset(validation_fraction=0.0, test_fraction=0.0).load("train")[0]
    assert (first.question, first.gold) == (TOM.format(a=1, b=1), "2") and first.uid.startswith("tiny-sums/")
    apart = dataset(test={"first": 40}, limit=3)
    assert next(prompt.question for prompt in apart.load("test")) == TOM.format(a=5, b=5)
    assert len(apart.load("train")) + len(apart.load("validation")) == 3
    assert dataset().fingerprint("train") != dataset(limit=30).fingerprint("train")
    assert dataset(settings={"kind": "turns"}).load("train")[0].question.startswith("Tom has ")


def test_a_tasks_own_rewards_judge_and_are_parts(sums: str) -> None:
    prompts = dataset().load("train")[:1] * 3
    right, wrong, broken = reward()([f"It is {prompts[0].gold}", "x" * 99, "boom"], prompts)
    assert (right.reward, right.correct, right.parts) == (1.5, True, {"brief": 1.0, "right": 1.0})
    assert (wrong.reward, wrong.outcome, wrong.parts) == (0.0, "wrong", {"brief": 0.0, "right": 0.0})
    assert math.isnan(broken.reward) and broken.outcome == "unverifiable"
    slow = settings(settings={"kind": "slow"})
    (late,) = reward(**slow, timeout_s=0.1)(["2"], dataset(**slow).load("train")[:1])
    assert late.outcome == "unverifiable"
    assert reward().version.startswith("verifiers/1 verifiers=0.4") and "tiny_sums=" in reward().version


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taskset": "no-such-set"}, r"^dataset\.taskset=no-such-set: .*not found"),
        ({"taskset": None}, r"^dataset\.taskset=None: name an installed taskset"),
        ({"settings": {"colour": 1}}, r"^dataset\.taskset=tiny-sums: .*colour"),
        ({"settings": {"kind": "boxed"}}, r"task 0: its reward exit_code reads a box .*only single-turn"),
        ({"settings": {"kind": "dialogue"}}, r"task 0: its prompt is not one user turn; only single-turn"),
        ({"gold": "solution"}, r"^dataset\.gold=solution: a task's data has .*answer.*; name one, or null"),
    ],
)
def test_what_is_no_single_turn_taskset_is_refused(sums: str, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dataset(**changes).load("train")
    assert "\n" not in str(error.value)


def test_a_question_of_another_dataset_has_no_reward(sums: str) -> None:
    components = build_components(cell_here("reward=verifiers", "+reward.taskset=tiny-sums").config)
    with pytest.raises(ValueError, match=r"^reward=verifiers: arithmetic/.* are dataset=verifiers$"):
        load_questions(components)


def test_the_command_that_installs_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    verifiers_tasks._library.cache_clear()
    verifiers_tasks._tasks.cache_clear()
    with pytest.raises(ValueError, match=r"cannot be imported .*pip install 'mirrorpo\[verifiers\]'$"):
        dataset().load("train")


@pytest.mark.slow
def test_a_taskset_trains_and_is_evaluated(sums: str, tmp_path: Path) -> None:
    arguments = ("dataset=verifiers", "dataset.taskset=tiny-sums", "dataset.gold=answer", "lr=1e-4")
    shares = ("dataset.validation_fraction=0.3", *SMALL, "steps=2")
    succeeded(train_in_new_python(*arguments, *shares, cwd=tmp_path, PYTHONPATH=str(tmp_path)))
    run = folder(tmp_path / "outputs")
    trained = [row for row in rows(run / "metrics.jsonl") if "reward/mean" in row]
    assert len(trained) == 2
    for row in trained:
        mean = row["reward/part/right"] + 0.5 * row["reward/part/brief"]
        assert row["reward/mean"] == pytest.approx(mean)
    assert "eval/greedy_accuracy" in rows(run / "metrics.jsonl")[-1]
    assert "tiny_sums=" in manifest(run)["reward_sources"]["taskset"]
