"""Held-out accuracy: greedy, and sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import AnswersBoth, GenerativeModel, RewardFn, RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.reward.composed import right_answers
from mirrorpo.train.metrics import part_metrics
from mirrorpo.train.sampled import Samples, sampled_metrics


class AnswerRow(TypedDict):
    """An evaluation's row of one question; `right` by the trained extraction.

    Attributes:
        samples: how many answers were sampled beside the greedy one, if any.
        samples_right: how many of those are right.
        majority_right: the share of the most frequent answers that are right, where answers can be counted.
        distinct: how many of their answers differ.
        right_counts: how many of them give each of the question's right answers, where these are listed.
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
    right_counts: NotRequired[list[int]]
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
        answers, sampled_answers = self._completions(model, step)
        greedy = self._judged(answers, 1)
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
        return Evaluation(metrics={**metrics, **self._sampled(rows, sampled_answers)}, rows=rows)

    def _sampled(self, rows: list[AnswerRow], completions: Sequence[Completion]) -> Mapping[str, float]:
        if not completions:
            return {}
        answers = self._judged(completions, self.samples)
        samples = [
            _samples(answers[start : start + self.samples], right_answers(self.reward, prompt))
            for start, prompt in zip(range(0, len(answers), self.samples), self.prompts, strict=False)
        ]
        for row, question in zip(rows[: len(samples)], samples, strict=True):
            row["samples"], row["samples_right"] = self.samples, sum(question.right)
            if (majority_right := question.majority_right) is not None:
                row["majority_right"] = majority_right
            row["distinct"] = question.distinct
            if counts := question.right_counts:
                row["right_counts"] = list(counts)
            row["sampled_tokens"], row["sampled_truncated"] = question.tokens, question.truncated
        return sampled_metrics(samples, self.prefix)

    def _completions(
        self, model: GenerativeModel, step: int
    ) -> tuple[Sequence[Completion], Sequence[Completion]]:
        """The greedy ones of all questions, and the sampled ones of the first."""
        every, size = len(self.prompts), self.samples
        sampled = min(self.sampled_questions, every) if size > 0 else 0
        if sampled and isinstance(self.engine, AnswersBoth) and self.engine.answers_both:
            both = self._answers(model, slice(sampled), size, self.temperature, step, with_greedy=True)
            rest = self._answers(model, slice(sampled, every), 1, 0.0, step)
            of_prompts = [both[start : start + size + 1] for start in range(0, len(both), size + 1)]
            greedy = [*(answers[0] for answers in of_prompts), *rest]
            return greedy, [answer for answers in of_prompts for answer in answers[1:]]
        greedy = self._answers(model, slice(every), 1, 0.0, step)
        return greedy, self._answers(model, slice(sampled), size, self.temperature, step)

    def _answers(
        self,
        model: GenerativeModel,
        chosen: slice,
        group_size: int,
        temperature: float,
        step: int,
        *,
        with_greedy: bool = False,
    ) -> Sequence[Completion]:
        if not self.prompts[chosen]:
            return []
        return self.engine.generate(
            model,
            RolloutRequest(
                prompts=self.prompts[chosen],
                prompt_ids=self.prompt_ids[chosen],
                group_size=group_size,
                max_new_tokens=self.max_new_tokens,
                temperature=temperature,
                seed=derive(self.seed, "evaluation", step, group_size),
                by_length=True,
                with_greedy=with_greedy,
            ),
        )

    def _judged(self, completions: Sequence[Completion], of_each: int) -> list[tuple[Completion, Verdict]]:
        answered = [self.prompts[index // of_each] for index in range(len(completions))]
        verdicts = self.reward([completion.text for completion in completions], answered)
        return list(zip(completions, verdicts, strict=True))


def _samples(answers: Sequence[tuple[Completion, Verdict]], right: Sequence[str]) -> Samples:
    return Samples(
        right=[verdict.correct for _, verdict in answers],
        answers=[verdict.answer for _, verdict in answers],
        texts=[completion.text for completion, _ in answers],
        tokens=sum(len(completion.ids) for completion, _ in answers),
        truncated=sum(completion.truncated for completion, _ in answers),
        right_answers=right,
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
