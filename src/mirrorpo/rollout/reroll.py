"""Re-rolling: continuations sampled from beginnings of completions, judged as completions are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import GenerativeModel, RolloutEngine, RolloutRule
from mirrorpo.core.seeds import derive


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What is continued.

    Attributes:
        prompt: the question.
        prompt_ids: it rendered.
        ids: the first tokens of a completion.
    """

    prompt: Prompt
    prompt_ids: Sequence[int]
    ids: Sequence[int]

    @property
    def key(self) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """What equal beginnings have alike."""
        return self.prompt.uid, tuple(self.prompt_ids), tuple(self.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rolled:
    """What came of beginnings.

    Attributes:
        rewards: of each beginning's continuations, NaN without a verdict.
        completions: that were sampled, without their beginnings.
    """

    rewards: Sequence[Sequence[float]]
    completions: Sequence[Completion]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerolls:
    """Samples continuations of prompts with the beginning of an answer.

    Attributes:
        engine: the sampler.
        judge: of entire answers.
        max_new_tokens: of an entire answer, wherever it was begun.
        temperature: of the sampler.
        rolls: continuations of each beginning.
        rule: whose shaping is the rewards'; None shapes nothing.
    """

    engine: RolloutEngine
    judge: Callable[[Sequence[str], Sequence[Prompt]], Sequence[Verdict]]
    max_new_tokens: int
    temperature: float
    rolls: int
    rule: RolloutRule | None = None

    def __call__(self, model: GenerativeModel, beginnings: Sequence[Beginning], seed: int) -> Rolled:
        """The rewards of each beginning's continuations; equal beginnings are rolled once."""
        distinct = {beginning.key: beginning for beginning in beginnings}
        if not distinct:
            return Rolled(rewards=[], completions=[])
        begun = list(distinct.values())
        completions = self.engine.generate(model, self._request(begun, seed))
        answers = [
            [*begun[completion.group].ids, *completion.ids][: self.max_new_tokens]
            for completion in completions
        ]
        texts = [model.decode(ids) for ids in answers]
        verdicts = self.judge(texts, [begun[completion.group].prompt for completion in completions])
        rewards = [verdict.reward for verdict in verdicts]
        if self.rule is not None:
            lengths = torch.tensor([float(len(ids)) for ids in answers])
            shaped = self.rule.shape(torch.tensor(rewards, dtype=torch.float32), lengths, self.max_new_tokens)
            rewards = [float(reward) for reward in shaped]
        of_key = {
            key: rewards[index * self.rolls : (index + 1) * self.rolls] for index, key in enumerate(distinct)
        }
        return Rolled(rewards=[of_key[beginning.key] for beginning in beginnings], completions=completions)

    def _request(self, begun: Sequence[Beginning], seed: int) -> RolloutRequest:
        shortest = min(len(beginning.ids) for beginning in begun)
        return RolloutRequest(
            prompts=[beginning.prompt for beginning in begun],
            prompt_ids=[[*beginning.prompt_ids, *beginning.ids] for beginning in begun],
            group_size=self.rolls,
            max_new_tokens=max(self.max_new_tokens - shortest, 1),
            temperature=self.temperature,
            seed=seed,
            seeds=[
                derive(seed, "sampling", "roll", *beginning.prompt_ids, "answer", *beginning.ids)
                for beginning in begun
            ],
            nested=True,
        )
