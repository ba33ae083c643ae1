"""The data that flows through one step: frozen, new out of old, never mutated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mirrorpo.core.shapes import GroupIds, PerCompletion, PerToken, TokenIds, TokenMask
from mirrorpo.core.tensors import distinct_index, integers, moved


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What decides whether a program is right, for questions that ask for one.

    Attributes:
        entry_point: the function that is asked for.
        prefix: code that stands before the program; where it opens the function, the program may go on from
            there.
        setup: the dataset's code that runs behind the program, where the program runs.
        prelude: the dataset's code that the tests need, run where they are.
        visible: tests that the prompt shows, each a piece of code that raises unless the program is right.
        hidden: tests that it does not show.
        fault: why nothing can be judged by them; empty when all is well.
        end: what ends an answer, where the prompt teaches an end; what stands behind it is none of it.
    """

    entry_point: str
    prefix: str
    setup: str
    prelude: str
    visible: Sequence[str]
    hidden: Sequence[str]
    fault: str
    end: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question of a dataset.

    Attributes:
        uid: stable name of the question; the same in every run, so that runs can be paired.
        question: the text a person would ask.
        gold: the right answer as the dataset gives it ("1,000"; a reference program).
        demonstration: a worked answer, the target of `algo=sft`.
        checks: tests of a program; None where the answer is compared with the gold.
    """

    uid: str
    question: str
    gold: str
    demonstration: str
    checks: Checks | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question and its answer that stand before every question of a dataset, as a turn each."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRequest:
    """What an engine is to sample: `group_size` completions for each prompt.

    Attributes:
        prompts: the questions.
        prompt_ids: them rendered, in order.
        group_size: completions of a prompt.
        max_new_tokens: longest completion.
        temperature: of the sampler; 0 is greedy.
        seed: of this call; the same seed, prompts and model give the same tokens.
        seeds: of each prompt, in place of `seed` where an engine can: its completions then depend on no
            other prompt, and the first tokens of one not on `max_new_tokens`.
        only: the stretch of the prompts that is to be answered, as in the whole call; None is all.
        nested: whether some prompts are beginnings of others, which an engine may compute but once.
        by_length: whether prompts of like length may be computed together, in whatever order; completions
            are the same up to rounding, and in order.
        with_greedy: whether each prompt has a greedy completion too, before its `group_size` others; only of
            an engine that `AnswersBoth`.
    """

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    group_size: int
    max_new_tokens: int
    temperature: float
    seed: int
    seeds: Sequence[int] | None = None
    only: range | None = None
    nested: bool = False
    by_length: bool = False
    with_greedy: bool = False

    @property
    def groups(self) -> range:
        """Numbers of the prompts that are to be answered."""
        return range(len(self.prompts)) if self.only is None else self.only


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled continuation of a prompt, with the ids the engine produced.

    Attributes:
        uid: the prompt's.
        group: which prompt of the step this answers; completions of one group share it.
        prompt_ids: the rendered prompt.
        ids: the continuation, its end-of-sequence token included when there is one.
        logprobs: log-probability of each id under the sampler, natural log.
        text: `ids` decoded, special tokens left out.
        truncated: stopped by length, without an end-of-sequence token.
    """

    uid: str
    group: int
    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]
    text: str
    truncated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the verifier says of one completion.

    Attributes:
        reward: the number trained on; NaN when the verifier could not say, and then the completion
            is left out of training and of its group's statistics.
        strict: right by the strict extraction (`####` or `\\boxed{}`).
        flexible: right by the flexible extraction (last number).
        correct: right by the extraction that is trained on, whatever shaping made of its reward.
        outcome: one word that is counted: right, wrong, no_answer, unverifiable, ...; passed, failed,
            time_out, ... of programs.
        parts: the rewards that this one is made of, by name and before their weights; NaN where a part could
            not say.
        gold: of a reward that is watched and never trained on; None where there is none.
        answer: the answer of the trained extraction in a normal form, by which equal answers are counted;
            empty where the completion gives none, None where the reward has no such form, as of programs.
    """

    reward: float
    strict: bool
    flexible: bool
    correct: bool
    outcome: str
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    gold: float | None = None
    answer: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a batch's tokens lie: with it, to read them is no question to the device.

    Attributes:
        present: row and column of each real completion token, in row order.
        trained: of each trained one.
        prompt: [B], which of the batch's distinct prompts each completion answers, from 0.
        first: [P], the first row with each prompt.
        lengths: tokens of each completion.
    """

    present: tuple[Tensor, Tensor]
    trained: tuple[Tensor, Tensor]
    prompt: Int[Tensor, " B"]
    first: Int[Tensor, " P"]
    lengths: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedRewards:
    """What an advantage may be made of, one entry a completion of the whole rollout.

    Attributes:
        rewards: [B], NaN without a verdict.
        group: [B], completions of one prompt share it.
        lengths: [B], trained tokens.
    """

    rewards: PerCompletion
    group: GroupIds
    lengths: Int[Tensor, " B"]


# What an advantage remembers of prompts: a few numbers of each, by its uid.
PromptMemory: TypeAlias = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """Which prompts a rollout is of, and what is known of them from before it.

    Attributes:
        uids: [B], of each completion's prompt.
        step: of the run.
        drift: KL of the policy from the start model, in nats a token, as it was last measured; 0 before.
        memory: of the prompts that were visited before.
    """

    uids: Sequence[str]
    step: int
    drift: float
    memory: PromptMemory


# Fields of a batch that may be large, and stay on the model's device.
OF_ANCHOR = ("anchor_hidden", "anchor_top_ids", "anchor_top_logprobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """One step's completions as tensors. Entry t of every [B, T] field is about completion token t.

    Prompts are padded on the left, completions on the right.

    Attributes:
        prompt_ids: [B, S].
        prompt_present: [B, S], True where a real prompt token stands.
        completion_ids: [B, T].
        present: [B, T], True for real completion tokens, the first end-of-sequence included.
        mask: [B, T], True for trained tokens; a subset of `present`.
        deciding: [B, T], True for tokens of spans that decide, by the dataset; nowhere where it does not say.
        group: [B], explicit, never inferred from position.
        rewards: [B], NaN without a verdict.
        truncated: [B].
        sampler_logprobs: [B, T], what the engine says it sampled from.
        old_logprobs: [B, T], the same tokens under the policy at rollout time, by the trainer's own forward.
        anchor_logprobs: [B, T], the same tokens under the divergence's anchor; NaN when nothing reads it.
        anchor_hidden: [B, T, D], the anchor's last hidden states, which stay on the model's device; D = 0
            when no divergence reads them.
        anchor_top_ids: [B, T, K], the anchor's likeliest tokens where each token stands, ascending; beside
            the hidden states, and K = 0 when no divergence reads them.
        anchor_top_logprobs: [B, T, K], their log-probabilities under the anchor.
        layout: of a batch that was moved to where it is read.
    """

    prompt_ids: Int[Tensor, "B S"]
    prompt_present: Bool[Tensor, "B S"]
    completion_ids: TokenIds
    present: TokenMask
    mask: TokenMask
    deciding: TokenMask
    group: GroupIds
    rewards: PerCompletion
    truncated: Bool[Tensor, " B"]
    sampler_logprobs: PerToken
    old_logprobs: PerToken
    anchor_logprobs: PerToken
    anchor_hidden: Float[Tensor, "B T D"]
    anchor_top_ids: Int[Tensor, "B T K"]
    anchor_top_logprobs: Float[Tensor, "B T K"]
    layout: Layout | None = None

    def __len__(self) -> int:
        """Number of completions, B."""
        return self.completion_ids.shape[0]

    def rows(self, index: Tensor) -> "RolloutBatch":
        """The completions at `index`, cut to their own longest prompt and completion."""
        picked = {name: _picked(tensor, index) for name, tensor in self.tensors().items()}
        width = max(int(picked["present"].sum(dim=1).max()), 1)
        depth = max(int(picked["prompt_present"].sum(dim=1).max()), 1)
        for name in ("prompt_ids", "prompt_present"):
            picked[name] = picked[name][:, picked[name].shape[1] - depth :]
        for name in (
            "completion_ids",
            "present",
            "mask",
            "deciding",
            "sampler_logprobs",
            "old_logprobs",
            "anchor_logprobs",
            *OF_ANCHOR,
        ):
            picked[name] = picked[name][:, :width]
        return RolloutBatch(**picked, layout=None)

    def lengths(self) -> Int[Tensor, " B"]:
        """Tokens of each prompt and completion together."""
        return self.prompt_present.sum(dim=1) + self.present.sum(dim=1)

    def prompt_numbers(self) -> Int[Tensor, " B"]:
        """Which of the batch's distinct prompts each completion answers, from 0; groups may share one."""
        return distinct_index(torch.where(self.prompt_present, self.prompt_ids, -1), dim=0)

    def tensors(self) -> Mapping[str, Tensor]:
        """All fields but the layout, by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "layout"}

    def located(self) -> Layout:
        """The layout, worked out where the batch has none."""
        if self.layout is not None:
            return self.layout
        prompt, first = self.prompt_numbers(), dict[int, int]()
        for row, number in enumerate(integers(prompt)):
            first.setdefault(number, row)
        rows = [first[number] for number in range(len(first))]
        return Layout(
            present=_positions(self.present),
            trained=_positions(self.mask),
            prompt=prompt,
            first=torch.tensor(rows, dtype=torch.long, device=prompt.device),
            lengths=integers(self.present.sum(dim=1)),
        )

    def to(self, device: torch.device | str) -> "RolloutBatch":
        """The same batch on another device with its layout, all by one copy but for what is the anchor's."""
        device, tensors, layout = torch.device(device), dict(self.tensors()), self.located()
        indices = [*layout.present, *layout.trained, layout.prompt, layout.first]
        of_anchor = {name: moved([tensors.pop(name)], device)[0] for name in OF_ANCHOR}
        there = moved([*tensors.values(), *indices], device)
        at = there[len(tensors) :]
        return RolloutBatch(
            **dict(zip(tensors, there, strict=False)),
            **of_anchor,
            layout=Layout(
                present=(at[0], at[1]),
                trained=(at[2], at[3]),
                prompt=at[4],
                first=at[5],
                lengths=layout.lengths,
            ),
        )

    def without_anchor(self) -> "RolloutBatch":
        """The same without the anchor's large fields."""
        tensors = self.tensors()
        return self.with_(**{name: tensors[name][..., :0] for name in OF_ANCHOR})

    def with_(self, **changes: Tensor) -> "RolloutBatch":
        """A copy in which the named fields are replaced."""
        laid_out = {"prompt_ids", "prompt_present", "present", "mask"}
        layout = None if changes.keys() & laid_out else self.layout
        return RolloutBatch(**{**self.tensors(), **changes}, layout=layout)


def _positions(mask: TokenMask) -> tuple[Tensor, Tensor]:
    rows, columns = mask.nonzero(as_tuple=True)
    return rows, columns


def _picked(values: Tensor, index: Tensor) -> Tensor:
    # What is read of the anchor may lie on another device than the rest.
    (there,) = moved([index], values.device)
    return values[there]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyOutputs:
    """The live policy's view of a batch's tokens, with gradient where it has one.

    Attributes:
        logprobs: [B, T], log pi_theta of each sampled token.
        entropy: [B, T], in nats; with gradient where a control gains from it.
        divergence: [B, T], D(pi_theta, anchor) by the configured estimator, before its coefficient.
        distance: [B, T], D(pi_old, pi_theta) of the trust region, without gradient; None without one.
        factor: [B, T], what the trust region makes of it: a factor on each token's credit.
        kept: [B, T], the entropy control's factor on it; None where it has none.
        added: [B, T], what the entropy control has each token's loss gain or pay; None where it does not.
    """

    logprobs: PerToken
    entropy: PerToken
    divergence: PerToken
    distance: PerToken | None = None
    factor: PerToken | None = None
    kept: PerToken | None = None
    added: PerToken | None = None
