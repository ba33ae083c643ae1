"""A step's re-rolls: by its sampler and its reward, counted as what it sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collector import Answer, Collector, Rollout
from mirrorpo.rollout.reroll import Beginning, Rerolls
from mirrorpo.train.budget import PassMeter


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRoller:
    """The `Roller` of a rollout.

    Attributes:
        policy: who samples on.
        collector: that made the rollout.
        answers: of the rollout, one for each row of its batch.
        meter: counts what is sampled.
    """

    policy: LanguageModel
    collector: Collector
    answers: Sequence[Answer]
    meter: PassMeter

    @classmethod
    def of(cls, policy: LanguageModel, collector: Collector, rollout: Rollout, meter: PassMeter) -> Self:
        """Of a rollout that the collector made."""
        return cls(policy=policy, collector=collector, answers=rollout.answers, meter=meter)

    def __call__(
        self, beginnings: Sequence[tuple[int, int]], *, rolls: int, seed: int
    ) -> Sequence[Sequence[float]]:
        """The rewards of each beginning's continuations."""
        rerolls = Rerolls(
            engine=self.collector.engine,
            judge=self.collector.reward,
            max_new_tokens=self.collector.max_new_tokens,
            temperature=self.collector.temperature,
            rolls=rolls,
            rule=self.collector.rule,
        )
        begun = [self._beginning(self.answers[row], end) for row, end in beginnings]
        rolled = rerolls(self.policy, begun, seed)
        self.meter.add_rolls(self.policy, rolled.completions)
        return rolled.rewards

    def _beginning(self, answer: Answer, end: int) -> Beginning:
        completion = answer.completion
        return Beginning(prompt=answer.prompt, prompt_ids=completion.prompt_ids, ids=completion.ids[:end])
