"""What training has spent since its first step: the axes on which arms are compared at equal budget.

Evaluations, the drift's probe, the optimiser's own products and the self-tests at load are no part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, cast

from mirrorpo.core.batch import Completion
from mirrorpo.model.cost import PassTokens, network_cost, sampling
from mirrorpo.model.head import Head
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.mixed_head import MixedHead

# How far back a pass goes: not at all; to its inputs alone; to its trained weights.
Gradient = Literal["none", "inputs", "weights"]


@dataclass(slots=True)
class PassMeter:
    """Adds up the passes of a step; every pass that training makes through a network is told to it.

    All ranks count all rows, so that a count does not depend on how these are divided, batched or padded.

    Attributes:
        flops: of all passes (`model.cost`).
        tokens_trained: tokens of the loss, once an update.
        rolls: completions that were sampled on from a beginning of another.
        tokens_rolled: their tokens, without the beginnings.
    """

    flops: int = 0
    tokens_trained: int = 0
    rolls: int = 0
    tokens_rolled: int = 0

    def add(self, model: LanguageModel, run: PassTokens, gradient: Gradient = "none") -> None:
        """Count a pass through a model."""
        cost = network_cost(model)
        self.flops += cost.forward(run)
        if gradient != "none":
            self.flops += cost.input_gradient(run)
        if gradient == "weights":
            self.flops += cost.weight_gradient(run)

    def add_rolls(self, model: LanguageModel, completions: Sequence[Completion]) -> None:
        """Count completions that were sampled on from beginnings, which are their prompts here.

        A beginning of another beginning is counted as read off it, as the native sampler does.
        """
        self.add(model, sampling(completions, nested=True))
        self.rolls += len(completions)
        self.tokens_rolled += sum(len(completion.ids) for completion in completions)

    def add_head(self, head: Head | MixedHead, read: int) -> None:
        """Count logits of so many positions, made without gradient off hidden states that were kept."""
        self.flops += 2 * head.entries * read


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Sums over all steps so far, of all attempts as far as they were kept.

    Attributes:
        completions: sampled, or taken as demonstrations; groups that were dropped, and rolls, included.
        tokens_trained: tokens of the loss, once an update.
        tokens_sampled: completion tokens that were sampled, dropped groups and rolls included.
        flops: of sampling, scoring, weighting and updates.
        device_s: seconds of the steps times the devices.
        energy_j: of the first process' machine while steps were taken; None where a step was not metered.
    """

    completions: int = 0
    tokens_trained: int = 0
    tokens_sampled: int = 0
    flops: int = 0
    device_s: float = 0.0
    energy_j: float | None = None

    @classmethod
    def of(cls, state: Mapping[str, object] | None) -> Self | None:
        """That of a checkpoint; None of one of a version that did not count."""
        return None if state is None else cls(**cast("Mapping[str, int]", state))

    def after(self, meter: PassMeter, *, completions: int, tokens_sampled: int) -> Self:
        """With one more step's passes and samples."""
        return replace(
            self,
            completions=self.completions + completions + meter.rolls,
            tokens_trained=self.tokens_trained + meter.tokens_trained,
            tokens_sampled=self.tokens_sampled + tokens_sampled + meter.tokens_rolled,
            flops=self.flops + meter.flops,
        )

    def metrics(self) -> dict[str, float]:
        """For `metrics.jsonl`: what equal runs have alike."""
        return {
            "budget/completions": float(self.completions),
            "budget/tokens_trained": float(self.tokens_trained),
            "budget/tokens_sampled": float(self.tokens_sampled),
            "budget/flops": float(self.flops),
        }

    def timings(self) -> dict[str, float]:
        """For `timings.jsonl`."""
        energy = {"budget/energy_j": self.energy_j} if self.energy_j else {}
        return {"budget/device_s": self.device_s, **energy}
