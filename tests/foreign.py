"""Parts of somebody else's, that know the package by its protocols alone; tests name them by `_target_`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mirrorpo.core.batch import Completion, GroupedRewards, Prompt, RolloutBatch, Verdict
from mirrorpo.core.span import ScoredSpan, Span


def exact_match(prompt: Prompt, completion: str, *, bonus: float = 0.0) -> float:
    """A reward in a line."""
    return float(completion.strip().endswith(prompt.gold)) + bonus


def scaled_match(prompt: Prompt, completion: str, *, scale: float) -> float:
    """A reward with a setting of its own."""
    return scale * exact_match(prompt, completion)


def a_word(prompt: Prompt, completion: str) -> str:
    """Returns no number."""
    return "good"


def nothing() -> None:
    """A factory that forgets to return."""


@dataclass(frozen=True)
class OwnWords:
    """A reward with outcome words of its own."""

    version: str = "own/1"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        right = [prompt.gold in text for text, prompt in zip(texts, prompts, strict=True)]
        return [
            Verdict(reward=2.5 * ok, strict=ok, flexible=ok, correct=ok, outcome="bravo" if ok else "alas")
            for ok in right
        ]


@dataclass(frozen=True)
class Programs(OwnWords):
    """A second reward of programs: some cannot be judged, and a jail of its own keeps programs in."""

    def unjudgeable(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        return {prompts[0].uid: "its tests are missing"}

    def provenance(self) -> Mapping[str, object]:
        return {"sandbox": "a jail"}


@dataclass(frozen=True)
class Floats(OwnWords):
    """A reward that returns numbers."""

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Any:
        return [1.0 for _ in texts]


@dataclass(frozen=True)
class TooFew(OwnWords):
    """A reward that loses verdicts."""

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return super().__call__(texts, prompts)[:-1]


@dataclass(frozen=True)
class Versionless:
    """A reward that nobody could tell from its successor."""

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return []


@dataclass(frozen=True)
class FirstHalf:
    """A plain weighting: two for the first half of each completion's tokens, one for the others."""

    def __call__(self, batch: RolloutBatch, scorer: Any, seed: int) -> Tensor:
        half = batch.present.sum(dim=1, keepdim=True) // 2
        return torch.where(torch.arange(batch.present.shape[1])[None] < half, 2.0, 1.0)


@dataclass(frozen=True)
class OneWeight:
    """A weighting of the wrong shape."""

    def __call__(self, batch: RolloutBatch, scorer: Any, seed: int) -> Tensor:
        return torch.ones(len(batch))


@dataclass(frozen=True)
class FirstToken:
    """A second weighting that scores spans: the first token, of completions with a reward."""

    def covers(self, batch: RolloutBatch) -> Tensor:
        return batch.rewards > 0

    def explain(self, batch: RolloutBatch, scorer: Any, seed: int) -> tuple[Tensor, list[ScoredSpan]]:
        span = Span(0, 1, "calculation")
        return self(batch, scorer, seed), [
            ScoredSpan(row=row, span=span, drop=0.5) for row in range(len(batch))
        ]

    def __call__(self, batch: RolloutBatch, scorer: Any, seed: int) -> Tensor:
        weights = torch.ones(batch.present.shape)
        weights[:, 0] = 3.0
        return weights

    def requirements(self, group: str, assembly: Any) -> list[str]:
        few = assembly.config["group_size"] < 3
        return [f"group_size={assembly.config['group_size']} with {group}=first_token: give 3"] * few


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A divergence: the squared gap of log-probabilities, scaled."""

    scale: float
    reads: str = "sampled"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return self.scale * (policy - anchor.detach()).square()


@dataclass(frozen=True, kw_only=True)
class Summed(Scaled):
    """A divergence of the wrong shape."""

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return super().__call__(policy, anchor, old).sum()


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """An entropy control: a gain that falls by half each step, and every trained token's credit halved."""

    start: float
    reads: str = "vocabulary"
    keeps: float = 0.5

    def gain(self, memory: Mapping[str, float]) -> float:
        return memory.get("gain", self.start)

    def after(self, memory: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {"gain": self.gain(memory) / 2}

    def penalty(self, log_ratio: Tensor) -> Tensor:
        return torch.zeros_like(log_ratio)

    def chosen(
        self, logprobs: Tensor, advantages: Tensor, clipped: Tensor, draws: Tensor, mask: Tensor
    ) -> Tensor:
        return mask


@dataclass(frozen=True)
class Remote:
    """A second engine in another process: it answers every prompt with its number."""

    samples: bool = True
    serves_remotely: bool = True

    def generate(self, model: Any, request: Any) -> list[Completion]:
        return [
            Completion(
                uid=request.prompts[group].uid,
                group=group,
                prompt_ids=request.prompt_ids[group],
                ids=[group],
                logprobs=[0.0],
                text=str(group),
                truncated=False,
            )
            for group in request.groups
        ]


@dataclass(frozen=True)
class TestOnly:
    """A dataset without a training split."""

    __test__ = False

    system: str = ""
    user: str = "{question}"
    evaluation_only: bool = True

    def load(self, split: str) -> list[Prompt]:
        return [] if split == "train" else [Prompt(uid="a", question="1 + 1", gold="2", demonstration="")]

    def fingerprint(self, split: str) -> str:
        return split


@dataclass(frozen=True)
class Ranks:
    """An advantage: how many of all completions have a lower reward."""

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        return (rewards[:, None] > rewards[None, :]).sum(dim=1).to(rewards.dtype)


@dataclass(frozen=True)
class PerToken:
    """An advantage that reads lengths: the reward over the number of trained tokens."""

    def estimate(self, rollout: GroupedRewards) -> Tensor:
        return rollout.rewards / rollout.lengths
