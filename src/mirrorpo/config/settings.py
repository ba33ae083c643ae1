"""The run-level settings that belong together, as types. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

from mirrorpo.config.eval_sets import entries
from mirrorpo.config.values import Config

UpdateWindow = Literal["whole", "split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings under the names that they have in a config."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of a resolved config."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings(Settings):
    """What a step samples.

    Attributes:
        prompts_per_step: groups.
        group_size: completions of a group.
        max_new_tokens: longest completion.
        temperature: of the sampler.
    """

    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSettings(Settings):
    """How a rollout goes through the network, without and with gradient.

    Attributes:
        temperature: of the sampler; scoring uses the same.
        logit_chunk: positions whose logits exist at once.
        tokens_per_micro_batch: padded tokens of a forward and backward pass.
        tokens_per_call: what one more call of the network costs, in tokens that it could compute instead;
            None is what it is on a CPU.
        shared_prefix: whether a prompt goes through the network once for all its completions: "auto", where
            the model can and it computes less; "always", and a model that cannot is refused; "never".
        updates_per_rollout: optimiser steps on a rollout.
        update_window: "whole", every update sees the whole rollout (GRPO's mu); "split", each sees
            its own share of the groups (DAPO's mini-batches).
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
    """

    temperature: float
    logit_chunk: int
    tokens_per_micro_batch: int
    tokens_per_call: int | None
    shared_prefix: Literal["auto", "always", "never"]
    updates_per_rollout: int
    update_window: UpdateWindow
    max_grad_norm: float

    @property
    def on_policy(self) -> bool:
        """One update a rollout: the live policy is the old one, and so are its log-probabilities."""
        return self.updates_per_rollout == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings(Settings):
    """How a model computes, beyond what its own group says.

    Attributes:
        head_precision: of the operands of the product with the output embedding, whose result is float32:
            "float32", or "bf16_in", rounded to bfloat16.
        compile: "layers", decoder layers run compiled where batches are scored and learned from; "none".
    """

    head_precision: Literal["float32", "bf16_in"]
    compile: Literal["none", "layers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSettings(Settings):
    """How a set of questions is answered in an evaluation.

    Attributes:
        eval_questions: answered greedily; 0 evaluates nothing.
        eval_max_new_tokens: longest answer.
        eval_sampled_questions: of these, how many are also sampled; "all".
        eval_samples: completions for each.
        eval_temperature: of the samples.
    """

    eval_questions: int
    eval_max_new_tokens: int
    eval_sampled_questions: int | Literal["all"]
    eval_samples: int
    eval_temperature: float

    @property
    def sampled(self) -> int:
        """How many questions are sampled, where there are so many."""
        if self.eval_sampled_questions == "all":
            return self.eval_questions
        return min(self.eval_sampled_questions, self.eval_questions)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings(AnswerSettings):
    """When the policy is evaluated, on what, and how.

    Attributes:
        eval_every: steps between evaluations; 0: before and after only.
        eval_datasets: the sets beside the run's own.
        right_answer_questions: of the run's own, whose demonstrations are read where they are right.
    """

    eval_every: int
    right_answer_questions: int
    eval_datasets: Sequence[object]

    @property
    def sets(self) -> list[str]:
        """The names of the sets that are evaluated; the run's own has an empty one."""
        return [
            *([""] if self.eval_questions > 0 else []),
            *(name for name, _ in entries(self.eval_datasets)),
        ]

    def due(self, step: int, last: int) -> bool:
        """Whether a step, of so many, is followed by an evaluation."""
        regular = self.eval_every > 0 and step % self.eval_every == 0
        return bool(self.sets) and (step in (0, last) or regular)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftSettings(Settings):
    """Where and when the drift from the start model is measured.

    Attributes:
        drift_questions: the start model's answers to these; 0 measures none.
        drift_positions: of their tokens that are read, spread evenly.
        drift_every: steps between two measurements.
    """

    drift_questions: int
    drift_positions: int
    drift_every: int

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Whether the drift is measured after a step.

        Where an evaluation follows it always is: accuracy is compared at equal drift.
        """
        return evaluated or step % self.drift_every == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings(Settings):
    """How far a run goes, on what, and what it leaves behind.

    Attributes:
        seed: every random stream is derived from it.
        steps: rollout-and-learn cycles.
        lr: peak learning rate.
        data_order: of the prompts.
        threads: of torch on the CPU.
        deterministic: deterministic kernels where there are some.
        progress: bar, notes and closing table.
        checkpoint_every: steps between checkpoints; 0 is none by steps.
        checkpoint_minutes: minutes after which one is due too; 0 is none by the clock.
        checkpoint_async: written in the background, from a copy of the state.
        keep_checkpoints: newest ones kept.
        shown_completions: written for a person, each step.
        contamination_questions: of the evaluated ones, whose start the start model is to complete.
    """

    seed: int
    steps: int
    lr: float
    data_order: Literal["shuffled", "sequential", "informative"]
    threads: int
    deterministic: bool
    progress: bool
    checkpoint_every: int
    checkpoint_minutes: float
    checkpoint_async: bool
    keep_checkpoints: int
    shown_completions: int
    contamination_questions: int
