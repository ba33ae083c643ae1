"""Held-out accuracy from a scripted engine: rows for paired tests, means, pass@k, determinism."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.train.evaluate import Evaluation, Evaluator

PROMPTS = [Prompt(uid=f"q{i}", question=f"{i}?", gold=str(i), demonstration="") for i in range(4)]
PROMPT_IDS = [[10 + i] * (i + 1) for i in range(4)]
# Greedy answers: right twice, right but not strict, and truncated without an answer.
GREEDY = ["#### 0", "it is 1", "#### 9", ""]
# Of four samples each: 4, 1 and 0 are right.
SAMPLED = [["#### 0"] * 4, ["#### 7", "#### 1", "1?", "#### 3"], ["#### 9"] * 4, ["#### 3"] * 4]


@dataclass
class Scripted:
    """An engine that answers from the script and notes how it was asked."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    samples = True
    serves_remotely = False

    def generate(self, model: Any, request: RolloutRequest) -> Sequence[Completion]:
        names = ("group_size", "temperature", "seed", "max_new_tokens")
        self.asked.append(
            {"uids": [p.uid for p in request.prompts], "prompt_ids": list(request.prompt_ids)}
            | {name: getattr(request, name) for name in names}
        )
        prompts, prompt_ids = request.prompts, request.prompt_ids
        temperature, group_size = request.temperature, request.group_size
        completions = []
        for group, prompt in enumerate(prompts):
            texts = [GREEDY[group]] if temperature == 0 else SAMPLED[group][:group_size]
            completions += [
                Completion(
                    uid=prompt.uid,
                    group=group,
                    prompt_ids=prompt_ids[group],
                    ids=[5] * (len(t) + 1),
                    logprobs=[0.0],
                    text=t,
                    truncated=t == "",
                )
                for t in texts
            ]
        return completions


@dataclass(frozen=True)
class Marks:
    """A verifier in two lines: strict wants the mark, flexible the number."""

    silent: bool = False  # of what the answers are

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        verdicts = []
        for text, prompt in zip(texts, prompts, strict=True):
            strict, flexible = text == f"#### {prompt.gold}", prompt.gold in text
            verdicts.append(
                Verdict(
                    reward=float(strict),
                    strict=strict,
                    flexible=flexible,
                    correct=strict,
                    outcome="right" if strict else "wrong" if text else "no_answer",
                    answer=None if self.silent else text.removeprefix("#### "),
                )
            )
        return verdicts


@dataclass
class Nothing:
    """A model that nobody computes with."""

    network: None = None
    tokenizer: None = None
    eos_ids: frozenset[int] = frozenset({1})
    pad_id: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def decode(self, ids: Sequence[int]) -> str:
        return ""


def evaluator(engine: Scripted | None = None, **changes: Any) -> Evaluator:
    settings: dict[str, Any] = {
        "prompts": PROMPTS,
        "prompt_ids": PROMPT_IDS,
        "max_new_tokens": 32,
        "sampled_questions": 3,
        "samples": 4,
        "temperature": 0.7,
        "seed": 5,
    }
    return Evaluator(engine=engine or Scripted(), reward=Marks(), **(settings | changes))


def evaluate(step: int = 0, **changes: Any) -> Evaluation:
    return evaluator(**changes)(Nothing(), step)


def asked(step: int = 0, **changes: Any) -> list[dict[str, Any]]:
    engine = Scripted()
    evaluator(engine, **changes)(Nothing(), step)
    return engine.asked


def test_there_is_one_row_for_each_question_in_order() -> None:
    assert [row["uid"] for row in evaluate().rows] == ["q0", "q1", "q2", "q3"]


def test_a_row_says_what_was_answered_and_how_it_was_judged() -> None:
    rows = evaluate(sampled_questions=1).rows
    assert rows[1] == {
        "uid": "q1",
        "question": "1?",
        "gold": "1",
        "right": False,
        "strict": False,
        "flexible": True,
        "outcome": "wrong",
        "tokens": 8,
        "truncated": False,
        "completion": "it is 1",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval/questions", 4),
        ("eval/greedy_accuracy", 1 / 4),
        ("eval/greedy_strict", 1 / 4),
        ("eval/greedy_flexible", 2 / 4),
        ("eval/truncated", 1 / 4),
        ("eval/length", (7 + 8 + 7 + 1) / 4),
        ("eval/unverifiable", 0),
        ("eval/sampled_questions", 3),
        ("eval/pass@1", (4 / 4 + 1 / 4 + 0) / 3),
        ("eval/pass@2", (1 + (1 - 3 / 6) + 0) / 3),
        ("eval/pass@4", (1 + 1 + 0) / 3),
        ("eval/avg@4", (4 / 4 + 1 / 4 + 0) / 3),
        # All four of the first agree, the second's four differ, and the third agrees on what is wrong.
        ("eval/maj@4", (1 + 1 / 4 + 0) / 3),
        ("eval/distinct", (1 + 4 + 1) / 3),
        ("eval/sampled_length", (4 * 7 + 7 + 7 + 3 + 7 + 4 * 7) / 12),
        ("eval/sampled_truncated", 0),
    ],
)
def test_metrics_by_hand(name: str, value: float) -> None:
    assert evaluate().metrics[name] == pytest.approx(value)


def test_metrics_hold_nothing_else() -> None:
    assert len(evaluate().metrics) == 16


def test_sampled_rows_count_their_right_samples() -> None:
    assert [(row["samples_right"], row["samples"]) for row in evaluate().rows[:3]] == [(4, 4), (1, 4), (0, 4)]


def test_sampled_rows_say_how_often_the_majority_is_right_and_what_the_samples_cost() -> None:
    names = ("majority_right", "distinct", "sampled_tokens", "sampled_truncated")
    assert [[row.get(name) for name in names] for row in evaluate().rows] == [
        [1.0, 1, 28, 0],
        [0.25, 4, 24, 0],
        [0.0, 1, 28, 0],
        [None, None, None, None],
    ]


def test_without_a_form_of_answers_nobody_votes_and_texts_are_counted() -> None:
    evaluation = replace(evaluator(), reward=Marks(silent=True))(Nothing(), 0)
    assert "majority_right" not in evaluation.rows[0] and "eval/maj@4" not in evaluation.metrics
    assert evaluation.metrics["eval/distinct"] == pytest.approx((1 + 4 + 1) / 3)


def test_another_set_has_its_metrics_below_its_name_and_the_numbers_that_it_has_alone() -> None:
    alone, beside = evaluate(), evaluate(prefix="eval/other")
    assert beside.rows == alone.rows
    assert beside.metrics == {
        name.replace("eval/", "eval/other/"): value for name, value in alone.metrics.items()
    }
    with pytest.raises(RuntimeError, match="evaluation of other at step 0: the verifier gave no verdict"):
        replace(evaluator(prefix="eval/other"), reward=Unsure(frozenset(GREEDY)))(Nothing(), 0)


def test_a_question_that_is_not_sampled_has_no_count() -> None:
    assert "samples" not in evaluate().rows[3]


def test_pass_at_1_is_the_mean_of_the_samples() -> None:
    evaluation = evaluate()
    sampled = [row for row in evaluation.rows if "samples" in row]
    assert evaluation.metrics["eval/pass@1"] == pytest.approx(
        sum(row["samples_right"] / row["samples"] for row in sampled) / len(sampled)
    )


def test_one_sample_gives_pass_at_1_alone() -> None:
    of_one = [name for name in evaluate(samples=1).metrics if "@" in name]
    assert of_one == ["eval/pass@1", "eval/avg@1", "eval/maj@1"]


@pytest.mark.parametrize("changes", [{"sampled_questions": 0}, {"samples": 0}])
def test_without_samples_only_greedy_answers_are_asked_for(changes: dict[str, int]) -> None:
    assert [question["temperature"] for question in asked(**changes)] == [0.0]
    assert not any("pass@" in name or "sampled" in name for name in evaluate(**changes).metrics)


def test_no_more_questions_are_sampled_than_there_are() -> None:
    assert evaluate(sampled_questions=99).metrics["eval/sampled_questions"] == 4


def test_greedy_asks_every_question_once() -> None:
    greedy = asked()[0]
    assert (greedy["uids"], greedy["prompt_ids"], greedy["group_size"], greedy["temperature"]) == (
        ["q0", "q1", "q2", "q3"],
        PROMPT_IDS,
        1,
        0.0,
    )


def test_samples_are_asked_of_the_first_questions() -> None:
    sampled = asked()[1]
    assert (sampled["uids"], sampled["prompt_ids"], sampled["group_size"], sampled["temperature"]) == (
        ["q0", "q1", "q2"],
        PROMPT_IDS[:3],
        4,
        0.7,
    )


def test_the_length_cap_is_that_of_the_evaluation() -> None:
    assert [question["max_new_tokens"] for question in asked()] == [32, 32]


def test_the_same_step_gives_the_same_evaluation() -> None:
    assert evaluate(step=3) == evaluate(step=3)
    assert asked(step=3) == asked(step=3)


@pytest.mark.parametrize("other", [{"step": 4}, {"seed": 6}])
def test_another_step_or_run_samples_by_another_seed(other: dict[str, int]) -> None:
    assert asked(**({"step": 3} | other))[1]["seed"] != asked(step=3)[1]["seed"]


def test_the_number_of_greedy_questions_does_not_move_the_samples_seed() -> None:
    fewer = asked(prompts=PROMPTS[:3], prompt_ids=PROMPT_IDS[:3])
    assert fewer[1] == asked()[1]


def test_sampling_more_questions_does_not_move_the_seed() -> None:
    assert asked(sampled_questions=2)[1]["seed"] == asked(sampled_questions=3)[1]["seed"]


@dataclass(frozen=True)
class Unsure:
    """A verifier without a verdict on the answers it is told of."""

    silent: frozenset[str]

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        unknown = Verdict(
            reward=float("nan"), strict=False, flexible=False, correct=False, outcome="unverifiable"
        )
        return [
            unknown if text in self.silent else verdict
            for text, verdict in zip(texts, Marks()(texts, prompts), strict=True)
        ]


def unsure(*silent: str) -> Evaluation:
    return replace(evaluator(), reward=Unsure(frozenset(silent)))(Nothing(), 0)


def test_an_unknown_verdict_is_not_right_and_is_counted() -> None:
    evaluation = unsure("#### 0", "#### 9")
    assert [row["right"] for row in evaluation.rows] == [False, False, False, False]
    assert evaluation.metrics["eval/greedy_accuracy"] == 0
    assert evaluation.metrics["eval/unverifiable"] == 2


def test_an_unknown_sample_counts_as_not_right() -> None:
    assert unsure("#### 1").rows[1]["samples_right"] == 0


def test_a_verifier_without_a_verdict_on_most_answers_stops_the_evaluation() -> None:
    with pytest.raises(
        RuntimeError, match="evaluation at step 0: the verifier gave no verdict on 3 of 4 answers"
    ):
        unsure("#### 0", "#### 9", "it is 1")


@dataclass
class Both(Scripted):
    """The script, by an engine that has a greedy answer beside the sampled ones."""

    answers_both = True

    def generate(self, model: Any, request: RolloutRequest) -> Sequence[Completion]:
        answers = super().generate(model, request)
        if not request.with_greedy:
            # Of the questions that are not sampled; the script goes by place.
            greedy = GREEDY[-len(answers) :]
            return [replace(answer, text=text, truncated=text == "", ids=[5] * (len(text) + 1))
                    for answer, text in zip(answers, greedy, strict=True)]  # fmt: skip
        greedy = super().generate(model, replace(request, temperature=0.0, group_size=1))
        size = request.group_size
        groups = [answers[start : start + size] for start in range(0, len(answers), size)]
        return [answer for first, others in zip(greedy, groups, strict=True) for answer in (first, *others)]


@pytest.mark.parametrize("sampled", [0, 3, 4])
def test_an_engine_that_answers_both_gives_the_same_evaluation_in_fewer_calls(sampled: int) -> None:
    apart, together = Scripted(), Both()
    arms = [evaluator(engine, sampled_questions=sampled)(Nothing(), 2) for engine in (apart, together)]
    assert arms[0].metrics == arms[1].metrics and arms[0].rows == arms[1].rows
    prompts = [
        sum(len(call["uids"]) for call in engine.asked if call["temperature"]) for engine in (apart, together)
    ]
    assert prompts == [sampled, sampled]
    if sampled:
        seeds = [
            next(call["seed"] for call in engine.asked if call["temperature"]) for engine in (apart, together)
        ]
        assert seeds[0] == seeds[1]
