"""Held-out accuracy: greedy, and sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import GenerativeModel, RewardFn, RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.train.metrics import part_metrics
from mirrorpo.train.sampled import Samples, sampled_metrics


class AnswerRow(TypedDict):
    """An evaluation's row of one question; `right` by the trained extraction.

    Attributes:
        samples: how many answers were sampled beside the greedy one, if any.
        samples_right: how many of those are right.
        majority_right: the share of the most frequent answers that are right, where answers can be counted.
        distinct: how many of their answers differ.
        sampled_tokens: of all samples.
        sampled_truncated: how many of them were cut.
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
    majority_right: NotRequired[float]
    distinct: NotRequired[int]
    sampled_tokens: NotRequired[int]
    sampled_truncated: NotRequired[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation: its means, and a row per question for paired tests.

    Attributes:
        metrics: `eval/greedy_accuracy` (by the trained extraction), `eval/greedy_strict`,
            `eval/greedy_flexible`, `eval/truncated`, `eval/length`, `eval/questions`, `eval/unverifiable` (a
            count), and what `sampled_metrics` says when questions were sampled; of a reward that is composed
            of several, also `part_metrics` of the greedy answers.
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
        prefix: of the metrics' names; of another set than the run's own it holds the set's name.
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
    prefix: str = "eval"

    def __call__(self, model: GenerativeModel, step: int) -> Evaluation:
        """Greedy on all questions; samples on some. The same model and step give the same rows."""
        greedy = self._answers(model, len(self.prompts), 1, 0.0, step)
        rows = [_row(prompt, *answer) for prompt, answer in zip(self.prompts, greedy, strict=True)]
        n = len(rows)
        unverifiable = sum(row["outcome"] == "unverifiable" for row in rows)
        metrics = {
            f"{self.prefix}/questions": float(n),
            f"{self.prefix}/greedy_accuracy": sum(row["right"] for row in rows) / n,
            f"{self.prefix}/greedy_strict": sum(row["strict"] for row in rows) / n,
            f"{self.prefix}/greedy_flexible": sum(row["flexible"] for row in rows) / n,
            f"{self.prefix}/truncated": sum(row["truncated"] for row in rows) / n,
            f"{self.prefix}/length": sum(row["tokens"] for row in rows) / n,
            f"{self.prefix}/unverifiable": float(unverifiable),
        }
        if 2 * unverifiable > n:
            name = self.prefix.removeprefix("eval").replace("/", " of ")
            raise RuntimeError(
                f"evaluation{name} at step {step}: the verifier gave no verdict on {unverifiable} of {n} "
                "answers; it is broken"
            )
        metrics |= part_metrics([verdict for _, verdict in greedy], self.prefix)
        return Evaluation(metrics={**metrics, **self._sampled(model, rows, step)}, rows=rows)

    def _sampled(self, model: GenerativeModel, rows: list[AnswerRow], step: int) -> Mapping[str, float]:
        count = min(self.sampled_questions, len(rows))
        if count == 0 or self.samples == 0:
            return {}
        answers = self._answers(model, count, self.samples, self.temperature, step)
        samples = [
            _samples(answers[start : start + self.samples]) for start in range(0, len(answers), self.samples)
        ]
        for row, question in zip(rows[:count], samples, strict=True):
            row["samples"], row["samples_right"] = self.samples, sum(question.right)
            if (majority_right := question.majority_right) is not None:
                row["majority_right"] = majority_right
            row["distinct"] = question.distinct
            row["sampled_tokens"], row["sampled_truncated"] = question.tokens, question.truncated
        return sampled_metrics(samples, self.prefix)

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


def _samples(answers: Sequence[tuple[Completion, Verdict]]) -> Samples:
    return Samples(
        right=[verdict.correct for _, verdict in answers],
        answers=[verdict.answer for _, verdict in answers],
        texts=[completion.text for completion, _ in answers],
        tokens=sum(len(completion.ids) for completion, _ in answers),
        truncated=sum(completion.truncated for completion, _ in answers),
    )


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
