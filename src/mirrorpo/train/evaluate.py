"""Held-out accuracy: greedy, and sampled pass@k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import GenerativeModel, RewardFn, RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.train.metrics import part_metrics, pass_at_k


class AnswerRow(TypedDict):
    """An evaluation's row of one question; `right` by the trained extraction.

    Attributes:
        samples: how many answers were sampled beside the greedy one, if any.
        samples_right: how many of those are right.
    """

    uid: str
    question: str
    gold: str
    right: bool
    strict: bool
    flexible: bool
    outcome: str
    tokens: int
    truncated: bool
    completion: str
    samples: NotRequired[int]
    samples_right: NotRequired[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation: its means, and a row per question for paired tests.

    Attributes:
        metrics: `eval/greedy_accuracy` (by the trained extraction), `eval/greedy_strict`,
            `eval/greedy_flexible`, `eval/truncated`, `eval/length`, `eval/questions`, `eval/unverifiable` (a
            count), and `eval/pass@k` with `eval/sampled_questions` when questions were sampled; of a
            reward that is composed of several, also `part_metrics` of the greedy answers.
        rows: of all questions, in order.
    """

    metrics: dict[str, float]
    rows: list[AnswerRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Evaluates a model on fixed questions.

    Attributes:
        engine: the sampler.
        reward: the verifier.
        prompts: the questions.
        prompt_ids: them rendered.
        max_new_tokens: length cap of an answer; it decides scores of verbose models.
        sampled_questions: how many of the questions are also sampled, the first ones.
        samples: completions sampled for each of those.
        temperature: of the samples.
        seed: the run's.
    """

    engine: RolloutEngine
    reward: RewardFn
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    max_new_tokens: int
    sampled_questions: int
    samples: int
    temperature: float
    seed: int

    def __call__(self, model: GenerativeModel, step: int) -> Evaluation:
        """Greedy on all questions; samples on some. The same model and step give the same rows."""
        greedy = self._answers(model, len(self.prompts), 1, 0.0, step)
        rows = [_row(prompt, *answer) for prompt, answer in zip(self.prompts, greedy, strict=True)]
        n = len(rows)
        metrics = {
            "eval/questions": float(n),
            "eval/greedy_accuracy": sum(row["right"] for row in rows) / n,
            "eval/greedy_strict": sum(row["strict"] for row in rows) / n,
            "eval/greedy_flexible": sum(row["flexible"] for row in rows) / n,
            "eval/truncated": sum(row["truncated"] for row in rows) / n,
            "eval/length": sum(row["tokens"] for row in rows) / n,
            "eval/unverifiable": float(sum(row["outcome"] == "unverifiable" for row in rows)),
        }
        if 2 * metrics["eval/unverifiable"] > n:
            raise RuntimeError(
                f"evaluation at step {step}: the verifier gave no verdict on "
                f"{metrics['eval/unverifiable']:.0f} of {n} answers; it is broken"
            )
        metrics |= part_metrics([verdict for _, verdict in greedy], "eval")
        return Evaluation(metrics=metrics | self._sampled(model, rows, step), rows=rows)

    def _sampled(self, model: GenerativeModel, rows: list[AnswerRow], step: int) -> dict[str, float]:
        count = min(self.sampled_questions, len(rows))
        if count == 0 or self.samples == 0:
            return {}
        answers = self._answers(model, count, self.samples, self.temperature, step)
        right = [verdict.correct for _, verdict in answers]
        right_of = [sum(right[start : start + self.samples]) for start in range(0, len(right), self.samples)]
        for row, samples_right in zip(rows[:count], right_of, strict=True):
            row["samples"], row["samples_right"] = self.samples, samples_right
        out = {"eval/sampled_questions": float(count)}
        for k in sorted({1, self.samples}):
            out[f"eval/pass@{k}"] = (
                sum(pass_at_k(count_right, self.samples, k) for count_right in right_of) / count
            )
        return out

    def _answers(
        self, model: GenerativeModel, count: int, group_size: int, temperature: float, step: int
    ) -> list[tuple[Completion, Verdict]]:
        prompts = self.prompts[:count]
        completions = self.engine.generate(
            model,
            RolloutRequest(
                prompts=prompts,
                prompt_ids=self.prompt_ids[:count],
                group_size=group_size,
                max_new_tokens=self.max_new_tokens,
                temperature=temperature,
                seed=derive(self.seed, "evaluation", step, group_size),
            ),
        )
        answered = [prompts[completion.group] for completion in completions]
        verdicts = self.reward([completion.text for completion in completions], answered)
        return list(zip(completions, verdicts, strict=True))


def _row(prompt: Prompt, completion: Completion, verdict: Verdict) -> AnswerRow:
    return {
        "uid": prompt.uid,
        "question": prompt.question,
        "gold": prompt.gold,
        "right": verdict.correct,
        "strict": verdict.strict,
        "flexible": verdict.flexible,
        "outcome": verdict.outcome,
        "tokens": len(completion.ids),
        "truncated": completion.truncated,
        "completion": completion.text,
    }
