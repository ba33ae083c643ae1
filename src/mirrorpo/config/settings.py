"""What each part of a run takes from a resolved config, typed. Imports no torch.

A field is named as the setting it comes from, without the prefix that its class stands for: `eval_samples` is
`EvaluationSettings.samples`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """How a step's completions are sampled.

    Attributes:
        prompts_per_step: groups in a step.
        group_size: completions of a prompt.
        max_new_tokens: longest completion.
        temperature: of the sampler.
        data_order: order of the training prompts.
        seed: the run's.
    """

    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    temperature: float
    data_order: Literal["shuffled", "sequential"]
    seed: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "RolloutSettings":
        """Those of a resolved config."""
        return cls(
            prompts_per_step=config["prompts_per_step"],
            group_size=config["group_size"],
            max_new_tokens=config["max_new_tokens"],
            temperature=config["temperature"],
            data_order=config["data_order"],
            seed=config["seed"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSettings:
    """How a policy is updated on a rollout.

    Attributes:
        temperature: of the sampler; scoring uses the same.
        logit_chunk: positions whose logits exist at once.
        tokens_per_micro_batch: padded tokens of a forward and backward pass.
        shared_prefix: whether a prompt goes through the network once for all its completions.
        updates_per_rollout: optimiser steps on a rollout.
        update_window: whether an update sees the whole rollout or its share of the groups.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
    """

    temperature: float
    logit_chunk: int
    tokens_per_micro_batch: int
    shared_prefix: Literal["auto", "always", "never"]
    updates_per_rollout: int
    update_window: Literal["whole", "split"]
    max_grad_norm: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "UpdateSettings":
        """Those of a resolved config."""
        return cls(
            temperature=config["temperature"],
            logit_chunk=config["logit_chunk"],
            tokens_per_micro_batch=config["tokens_per_micro_batch"],
            shared_prefix=config["shared_prefix"],
            updates_per_rollout=config["updates_per_rollout"],
            update_window=config["update_window"],
            max_grad_norm=config["max_grad_norm"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRateSettings:
    """What the learning rates of a step's updates are made from, beside the schedule.

    Attributes:
        lr: peak learning rate.
        steps: of the run.
        updates_per_rollout: optimiser steps on a rollout.
    """

    lr: float
    steps: int
    updates_per_rollout: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "LearningRateSettings":
        """Those of a resolved config."""
        return cls(lr=config["lr"], steps=config["steps"], updates_per_rollout=config["updates_per_rollout"])


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How and when a policy is evaluated.

    Attributes:
        every: steps between evaluations; 0: before and after only.
        steps: of the run.
        split: of the dataset.
        questions: answered greedily; 0 evaluates nothing.
        max_new_tokens: longest answer.
        sampled_questions: how many of the questions are also sampled.
        samples: completions sampled for each of those.
        temperature: of the samples.
        seed: the run's.
    """

    every: int
    steps: int
    split: Literal["validation", "test"]
    questions: int
    max_new_tokens: int
    sampled_questions: int
    samples: int
    temperature: float
    seed: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "EvaluationSettings":
        """Those of a resolved config."""
        return cls(
            every=config["eval_every"],
            steps=config["steps"],
            split=config["eval_split"],
            questions=config["eval_questions"],
            max_new_tokens=config["eval_max_new_tokens"],
            sampled_questions=config["eval_sampled_questions"],
            samples=config["eval_samples"],
            temperature=config["eval_temperature"],
            seed=config["seed"],
        )

    def due(self, step: int) -> bool:
        """Whether there is an evaluation after this step; step 0 is the start model.

        Example:
            >>> settings = EvaluationSettings(
            ...     every=2, steps=5, split="test", questions=8, max_new_tokens=9,
            ...     sampled_questions=0, samples=4, temperature=1.0, seed=0,
            ... )
            >>> [step for step in range(6) if settings.due(step)]
            [0, 2, 4, 5]
        """
        at_interval = self.every > 0 and step % self.every == 0
        return self.questions > 0 and (step in (0, self.steps) or at_interval)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftSettings:
    """Where the drift from the start model is measured.

    Attributes:
        questions: the start model's answers to these are read; 0 measures nothing.
        positions: how many of their tokens are read, spread evenly.
        max_new_tokens: longest answer.
        temperature: of the answers.
    """

    questions: int
    positions: int
    max_new_tokens: int
    temperature: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DriftSettings":
        """Those of a resolved config."""
        return cls(
            questions=config["drift_questions"],
            positions=config["drift_positions"],
            max_new_tokens=config["max_new_tokens"],
            temperature=config["temperature"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings:
    """When checkpoints are written, and how many stay.

    Attributes:
        every: steps between checkpoints; the last step has one in any case.
        keep: newest ones kept.
        steps: of the run.
    """

    every: int
    keep: int
    steps: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "CheckpointSettings":
        """Those of a resolved config."""
        return cls(every=config["checkpoint_every"], keep=config["keep_checkpoints"], steps=config["steps"])

    def due(self, step: int) -> bool:
        """Whether a checkpoint is written after this step.

        Example:
            >>> settings = CheckpointSettings(every=2, keep=1, steps=5)
            >>> [step for step in range(1, 6) if settings.due(step)]
            [2, 4, 5]
        """
        return step % self.every == 0 or step == self.steps
