"""Several rewards added up by weights, each a part with a name and a metric of its own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.protocols import Assembly, Verifier
from mirrorpo.reward import composed


class Part(TypedDict):
    """A part of a sum.

    Attributes:
        weight: its factor; at 0 it is logged and changes nothing.
        reward: a class with a version and verdicts, or a function of a prompt and a completion.
    """

    weight: float
    reward: object


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedSum:
    """The sum of its parts' rewards, each times its weight.

        reward = sum over parts of weight * reward of the part

    A part with a weight that has no value for a completion (NaN) leaves the sum without one, and the
    completion out of training; such completions are counted by part. Right and wrong are what one of the
    parts says, so that accuracy stays accuracy whatever else is rewarded.

    Attributes:
        correct: name of the part that says whether an answer is right, and how by either reading.
        parts: by name.

    Raises:
        ValueError: for a part without weight or reward, or a name that no part has.
    """

    correct: str
    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        if self.correct not in self.parts:
            raise ValueError(
                f"reward.correct={self.correct}: it names the part that says what is right; choose one of "
                f"{', '.join(self.parts)}"
            )
        for name, settings in self.parts.items():
            _check(name, settings)
        self._verifiers()

    @property
    def version(self) -> str:
        """Those of the parts; weights are settings."""
        return f"sum/1 {composed.version(self._verifiers())}"

    @property
    def outcomes(self) -> Sequence[str]:
        """Those of the part that says what is right."""
        return composed.outcomes(self._verifiers()[self.correct])

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        of_parts = {name: reward(texts, prompts) for name, reward in self._verifiers().items()}
        return [
            self._verdict({name: verdicts[index] for name, verdicts in of_parts.items()})
            for index in range(len(texts))
        ]

    def right_answers(self, prompt: Prompt) -> Sequence[str]:
        """Those of the part that says what is right."""
        return composed.right_answers(self._verifiers()[self.correct], prompt)

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The prompts that some part cannot judge."""
        return composed.unjudgeable(self._verifiers(), prompts)

    def provenance(self) -> dict[str, object]:
        """What the parts say of themselves."""
        return composed.provenance(self._verifiers())

    def notes(self, group: str, assembly: Assembly) -> Iterator[str]:
        """What the parts have to say."""
        return composed.notes(self._by_setting(), group, assembly)

    def requirements(self, group: str, assembly: Assembly) -> Iterator[str]:
        """What the parts refuse."""
        return composed.requirements(self._by_setting(), group, assembly)

    def sources(self) -> dict[str, str]:
        """Those of the parts."""
        return composed.sources(self._by_setting())

    def _verdict(self, verdicts: Mapping[str, Verdict]) -> Verdict:
        judge = verdicts[self.correct]
        weights = {name: float(self.parts[name]["weight"]) for name in verdicts}
        weighted = (weights[name] * verdict.reward for name, verdict in verdicts.items() if weights[name])
        reward = sum(weighted, start=0.0)
        return replace(
            judge,
            reward=reward,
            outcome="unverifiable" if math.isnan(reward) else judge.outcome,
            parts={name: verdict.reward for name, verdict in verdicts.items()},
        )

    def _verifiers(self) -> dict[str, Verifier]:
        return {
            name: composed.part(settings["reward"], f"reward.parts.{name}.reward")
            for name, settings in self.parts.items()
        }

    def _by_setting(self) -> dict[str, Verifier]:
        return {f"parts.{name}.reward": reward for name, reward in self._verifiers().items()}


def _check(name: str, settings: object) -> None:
    setting = f"reward.parts.{name}"
    wanted = {"weight", "reward"}
    if not isinstance(settings, Mapping) or set(settings) != wanted:
        keys = ", ".join(map(str, settings)) if isinstance(settings, Mapping) else repr(settings)
        raise ValueError(
            f"{setting} has {keys or 'nothing'}: a part has a `weight` and a `reward`; "
            f"+{setting}.weight=0.1 +reward@{setting}.reward=NAME on the command line add one"
        )
    weight = settings["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"{setting}.weight={weight!r}: give a number")
