"""What each axis promises. Implementations are frozen dataclasses and do not repeat these contracts."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest, Verdict
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.shapes import GroupIds, PerCompletion, PerToken, Scalar, TokenMask
from mirrorpo.core.token_offsets import TokenOffsets

Split = Literal["train", "validation", "test"]


@runtime_checkable
class Dataset(Protocol):
    """Questions with gold answers, in three splits that share no question.

    `load` is deterministic, and reading one split never touches another split's file. Errors name
    the file, the line and the fix. `fingerprint` is a hash of the bytes (or of the generator's
    settings) behind a split, stored with every run.
    """

    system: str
    user: str

    def load(self, split: Split) -> Sequence[Prompt]: ...

    def fingerprint(self, split: Split) -> str: ...


@runtime_checkable
class RewardFn(Protocol):
    """Judges completions against their prompts' gold answers; one verdict each, in order.

    Never raises on what a model wrote; a verifier that crashed or ran out of time gives the outcome
    "unverifiable" and a NaN reward.
    """

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]: ...


@runtime_checkable
class GenerativeModel(Protocol):
    """What an engine may know of the policy: a causal LM with a key-value cache, and its special ids.

    `cache_argument` is the network's word for that cache, as argument and in its output. `computing` sets the
    compute dtype, `evaluating` puts the network in eval mode and back.
    """

    @property
    def network(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def cache_argument(self) -> str: ...

    def computing(self) -> AbstractContextManager[None]: ...

    def evaluating(self) -> AbstractContextManager[None]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@runtime_checkable
class RolloutEngine(Protocol):
    """Gives `group_size` completions for each prompt of a request, in order: group 0 first, then group 1, ...

    The same request and model give the same tokens. `logprobs` are those of the distribution that was
    sampled from.

    Attributes:
        samples: whether completions come from a policy; False where they are given, and then have no
            log-probability.
        serves_remotely: whether another process samples, which of several ranks only one has to ask.
    """

    @property
    def samples(self) -> bool: ...

    @property
    def serves_remotely(self) -> bool: ...

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]: ...


@runtime_checkable
class AdvantageEstimator(Protocol):
    """Rewards to advantages, per completion, without gradient. NaN rewards give advantage zero."""

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion: ...


@runtime_checkable
class Ratio(Protocol):
    """The log of the importance ratio, per token, with gradient; zero where the mask is False.

    A ratio over the whole sequence carries its value on every token, and each token's own gradient, so
    that token weights act on it too. The advantages are read only by ratios that are cut on the side
    the advantage pushes to.

    Logs are passed because every surrogate is finite in them: an exponent of a log-probability
    underflows where its log does not.
    """

    def __call__(
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerCompletion
    ) -> PerToken: ...


@runtime_checkable
class Surrogate(Protocol):
    """Credit of each token, a loss to be minimised, from its log-ratio and its advantage.

    `clipped` marks the tokens whose credit has exactly zero gradient though their advantage is not
    zero.
    """

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken: ...

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask: ...


@runtime_checkable
class Aggregation(Protocol):
    """Per-token losses to a scalar.

    `denominator` is taken over the whole optimiser window; passing it for each micro-batch makes
    the sum over micro-batches equal the whole batch's loss.
    """

    def denominator(self, mask: TokenMask) -> Scalar: ...

    def __call__(self, per_token: PerToken, mask: TokenMask, denominator: Scalar | None = None) -> Scalar: ...


@runtime_checkable
class RolloutRule(Protocol):
    """How an algorithm treats its rollouts before the update: which groups and tokens are trained, and
    what a completion that fills its budget costs."""

    def shape(self, rewards: PerCompletion, lengths: PerCompletion, max_new_tokens: int) -> PerCompletion: ...

    def keeps(self, rewards: PerCompletion, group: GroupIds) -> Tensor: ...

    @property
    def max_draws(self) -> int: ...

    @property
    def mask_truncated(self) -> bool: ...


@runtime_checkable
class Divergence(Protocol):
    """D(pi_theta, anchor) per state, >= 0 in value where the docstring says so.

    `reads` says what `__call__` wants: "nothing"; "sampled", the log-probabilities of the sampled
    token under policy, anchor and old policy, shape [...]; "vocabulary", log-probabilities over the
    vocabulary under policy and anchor, shape [..., V], reduced to [...].
    """

    beta: float

    @property
    def anchor(self) -> Literal["reference", "old"]: ...

    @property
    def reads(self) -> Literal["nothing", "sampled", "vocabulary"]: ...

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor: ...


@runtime_checkable
class Scorer(Protocol):
    """A view of the old policy in eval mode and without gradient, for weightings that ask for one.

    `logprobs` and `entropies` (nats) are those of each completion token, zero at pads; `with_offsets` gives
    each completion's text with the characters that every token wrote. `cut` gives the log-probabilities
    of what each cut reads, [B, T] with nothing hidden and [N, T] with cut n's span hidden. `importance`
    says what the score of the tokens from `firsts[row]` on owes to each token, by gradient or attention.
    """

    def logprobs(self, batch: RolloutBatch) -> PerToken: ...

    def entropies(self, batch: RolloutBatch) -> PerToken: ...

    def with_offsets(self, batch: RolloutBatch) -> Sequence[TokenOffsets]: ...

    def cut(
        self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking
    ) -> tuple[PerToken, Float[Tensor, "N T"]]: ...

    def importance(
        self, batch: RolloutBatch, firsts: Sequence[int], signal: Literal["gradient", "attention"]
    ) -> PerToken: ...


@runtime_checkable
class Weighting(Protocol):
    """Token weights, non-negative, without gradient; normalised to mean one outside."""

    @property
    def scope(self) -> Literal["credit", "loss"]: ...

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken: ...


@runtime_checkable
class Optimiser(Protocol):
    """What the trainer needs of an optimiser."""

    def step(self, lr: float) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """A mirror of the local metric file; it may fail without consequences."""

    def start(self, *, run_id: str, name: str, config: Mapping[str, Any], folder: str) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, exit_code: int) -> None: ...
