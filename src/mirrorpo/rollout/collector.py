"""One step's completions: prompts drawn, sampled, judged, and chosen by the algorithm's rollout rule."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import GenerativeModel, RolloutEngine, RolloutRule
from mirrorpo.core.seeds import derive
from mirrorpo.rollout.prompt_order import DataOrder

Render = Callable[[Prompt], tuple[str, Sequence[int]]]
Judge = Callable[[Sequence[str], Sequence[Prompt]], Sequence[Verdict]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One judged completion.

    Attributes:
        prompt: what was asked.
        rendered: the prompt as the model saw it.
        completion: what was sampled; its group is unique in the step.
        verdict: the verifier's.
        reward: the verdict's, after overlong shaping.
    """

    prompt: Prompt
    rendered: str
    completion: Completion
    verdict: Verdict
    reward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A step's answers, and what it took to get them.

    Attributes:
        answers: of the groups that are trained.
        position: where the walk over the prompts then stands.
        draws: rounds of sampling.
        sampled: all completions, dropped groups included.
    """

    answers: Sequence[Answer]
    position: int
    draws: int
    sampled: Sequence[Completion]

    @property
    def tokens(self) -> int:
        """Tokens of all completions."""
        return sum(len(completion.ids) for completion in self.sampled)


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector:
    """Collects a step's rollout.

    Attributes:
        engine: the sampler.
        reward: the verifier.
        rule: shaping, dynamic sampling.
        render: a prompt as text and ids.
        prompts: the training split.
        order: which of them a step takes.
        prompts_per_step: groups wanted.
        group_size: completions of a group.
        max_new_tokens: longest completion.
        temperature: of the sampler.
        seed: the run's.
    """

    engine: RolloutEngine
    reward: Judge
    rule: RolloutRule
    render: Render
    prompts: Sequence[Prompt]
    order: DataOrder
    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    temperature: float
    seed: int

    def __call__(
        self,
        model: GenerativeModel,
        step: int,
        position: int,
        value_of: Callable[[str], float] | None = None,
    ) -> Rollout:
        """The step's answers; the same model, step, position and values give the same ones.

        `value_of` gives a prompt's tracked value by its uid, for an order that draws by it.

        With dynamic sampling, groups without a gradient are replaced until the step is full or
        the rounds are spent; if none has one, the last round is taken as it is.

        Raises:
            RuntimeError: if the verifier has no verdict on more than half of what was sampled.
        """
        answers: list[Answer] = []
        sampled: list[Completion] = []
        silent = Counter[str]()
        draws = unknown = 0
        values = None if value_of is None else [value_of(prompt.uid) for prompt in self.prompts]
        while draws < self.rule.max_draws:
            indices = self.order.take(position, self.prompts_per_step, values)
            drawn = self._draw(model, step, draws, [self.prompts[index] for index in indices])
            position += self.prompts_per_step
            draws += 1
            sampled += [answer.completion for answer in drawn]
            unknown += sum(math.isnan(answer.verdict.reward) for answer in drawn)
            silent.update(name for answer in drawn for name in _silent_parts(answer.verdict))
            answers += self._with_gradient(drawn)
            if _groups(answers) >= self.prompts_per_step or draws == self.rule.max_draws:
                answers = _first_groups(answers or drawn, self.prompts_per_step)
                break
        if unknown * 2 > len(sampled):
            by_part = "".join(f", {name} none on {count}" for name, count in sorted(silent.items()))
            raise RuntimeError(
                f"step {step}: the verifier gave no verdict on {unknown} of {len(sampled)} "
                f"completions{by_part}; it is broken or its time limit is too short"
            )
        return Rollout(answers=answers, position=position, draws=draws, sampled=sampled)

    def _draw(self, model: GenerativeModel, step: int, draw: int, prompts: Sequence[Prompt]) -> list[Answer]:
        rendered = [self.render(prompt) for prompt in prompts]
        completions = self.engine.generate(
            model,
            RolloutRequest(
                prompts=prompts,
                prompt_ids=[ids for _, ids in rendered],
                group_size=self.group_size,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=derive(self.seed, "sampling", step, draw),
            ),
        )
        answered = [prompts[completion.group] for completion in completions]
        verdicts = self.reward([completion.text for completion in completions], answered)
        rewards = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float32)
        lengths = torch.tensor([float(len(completion.ids)) for completion in completions])
        shaped = self.rule.shape(rewards, lengths, self.max_new_tokens).tolist()
        return [
            Answer(
                prompt=prompt,
                rendered=rendered[completion.group][0],
                completion=replace(completion, group=completion.group + draw * self.prompts_per_step),
                verdict=verdict,
                reward=reward,
            )
            for prompt, completion, verdict, reward in zip(
                answered, completions, verdicts, shaped, strict=True
            )
        ]

    def _with_gradient(self, answers: Sequence[Answer]) -> list[Answer]:
        rewards = torch.tensor([answer.verdict.reward for answer in answers], dtype=torch.float32)
        groups = torch.tensor([answer.completion.group for answer in answers])
        return [
            answer
            for answer, keep in zip(answers, self.rule.keeps(rewards, groups).tolist(), strict=True)
            if keep
        ]


def _silent_parts(verdict: Verdict) -> list[str]:
    return [name for name, reward in verdict.parts.items() if math.isnan(reward)]


def _groups(answers: Sequence[Answer]) -> int:
    return len({answer.completion.group for answer in answers})


def _first_groups(answers: Sequence[Answer], count: int) -> list[Answer]:
    groups = set(list(dict.fromkeys(answer.completion.group for answer in answers))[:count])
    return [answer for answer in answers if answer.completion.group in groups]
