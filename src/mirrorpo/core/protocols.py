"""What each axis promises. Implementations are frozen dataclasses and do not repeat these contracts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim.optimizer import StateDict

from mirrorpo.core.batch import (
    Completion,
    Example,
    GroupedRewards,
    Prompt,
    PromptMemory,
    RolloutBatch,
    RolloutRequest,
    Verdict,
    Visit,
)
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.network import Tokenizer
from mirrorpo.core.shapes import GroupIds, PerCompletion, PerToken, Scalar, TokenMask
from mirrorpo.core.span import ScoredSpan
from mirrorpo.core.token_offsets import Interval, TokenOffsets

# A config or a group of one, resolved; what stands under a key is for the group's class to say.
Config: TypeAlias = Mapping[str, Any]

Split = Literal["train", "validation", "test"]

# Where a penalty acts: in the loss, or through the advantages (`divergence.placement`).
Placement = Literal["loss", "reward", "reward_to_go", "loss_to_go", "completion"]

# Sampling with the network's own cache; plain weights with adapters merged; hiding spans, by each masking;
# the gradient with respect to embeddings; attention weights.
ModelNeed = Literal["sample", "merge", "pad", "block", "delete", "direct", "gradient", "attention"]


@runtime_checkable
class Assembly(Protocol):
    """What a part may ask of the run that it is put together for.

    Attributes:
        config: every setting, resolved.
        rollout: the engine of the training rollouts.
        anchor: what the divergence is measured to.
        dataset: the questions; an evaluation set's own, asked for that set.
        importance_correction: of the gap between sampler and old policy; None without one.
    """

    @property
    def config(self) -> Config: ...

    @property
    def rollout(self) -> "RolloutEngine": ...

    @property
    def anchor(self) -> "Anchor": ...

    @property
    def dataset(self) -> "Dataset": ...

    @property
    def importance_correction(self) -> "ImportanceCorrection | None": ...


@runtime_checkable
class StatesRequirements(Protocol):
    """A part that refuses some combinations of settings; any part may.

    `group` is the config group that it was built for. Each reason is one line: the setting, its value, the
    cure. Asked when the parts are put together, before data is read or a model loaded.
    """

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]: ...


@runtime_checkable
class DeclaresModelNeeds(Protocol):
    """A part that reads the model in a way that not every architecture allows; any part may.

    What it needs is tried on a few tokens once the model is loaded, and a model that cannot is refused.
    """

    def model_needs(self) -> Collection[ModelNeed]: ...


@runtime_checkable
class StatesNotes(Protocol):
    """A part that has something to say of a run that is allowed: an arm without effect, a cost for
    nothing.
    """

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class Inert:
    """Settings of a run that have no effect.

    Attributes:
        settings: dotted, with all that stands below them.
        reason: why, with the setting that makes them so.
        cure: the setting under which they would have one.
        same_as: dotted settings, with all that stands below them, and values that would make the same run;
            None: without that setting.
    """

    settings: tuple[str, ...]
    reason: str
    cure: str
    same_as: tuple[tuple[str, str | None], ...] = ()


@runtime_checkable
class DeclaresInert(Protocol):
    """A part that has settings without effect in some runs.

    Two runs that differ in such settings alone are one run.
    """

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]: ...


@runtime_checkable
class Dataset(Protocol):
    """Questions with gold answers, in three splits that share no question.

    `load` is deterministic, and reading one split never touches another split's file. Errors name
    the file, the line and the fix. `fingerprint` is a hash of the bytes (or of the generator's
    settings) behind a split, stored with every run.
    """

    @property
    def system(self) -> str: ...

    @property
    def user(self) -> str: ...

    def load(self, split: Split) -> Sequence[Prompt]: ...

    def fingerprint(self, split: Split) -> str: ...


@runtime_checkable
class DeclaresEvaluationOnly(Protocol):
    """A dataset that says whether it is for evaluation only, without a training split."""

    @property
    def evaluation_only(self) -> bool: ...


@runtime_checkable
class DeclaresFiles(Protocol):
    """A dataset that says which files a split is read from; none where it is made by templates or by the hub.

    A finished run is then recognised by their bytes, and its data need not be loaded for that.
    """

    def files(self, split: Split) -> Sequence[Path]: ...


@runtime_checkable
class GivesExamples(Protocol):
    """A dataset with examples that stand before every question, as turns where there are turns."""

    @property
    def examples(self) -> Sequence[Example]: ...


@runtime_checkable
class LeavesOutRows(Protocol):
    """A dataset that leaves out rows of a split: by the uid that each would have, with the reason."""

    def left_out(self, split: Split) -> Mapping[str, str]: ...


@runtime_checkable
class DeclaresDeciding(Protocol):
    """A dataset that says which spans of a completion decide whether it is right, as a planted world can.

    They are half-open intervals of the text's characters, in order, none where nothing decides. Never raises
    on what a model wrote. `RolloutBatch.deciding` has them as tokens.
    """

    def deciding(self, prompt: Prompt, text: str) -> Sequence[Interval]: ...


@runtime_checkable
class RewardFn(Protocol):
    """Judges completions against their prompts' gold answers; one verdict each, in order.

    Never raises on what a model wrote; a verifier that crashed or ran out of time gives a NaN reward, by
    convention with the outcome "unverifiable". `version` changes with every change of what it says.
    """

    @property
    def version(self) -> str: ...

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]: ...


@runtime_checkable
class Verifier(RewardFn, Protocol):
    """A reward as the trainer uses it; `reward.plain` makes one of a `RewardFn` or of a function.

    `unjudgeable` says of which prompts nothing can be judged, by uid with the reason; they are left out.
    `provenance` is what the manifest says of it beside its version.
    """

    def unjudgeable(self, prompts: Sequence[Prompt]) -> Mapping[str, str]: ...

    def provenance(self) -> Mapping[str, object]: ...


@runtime_checkable
class DeclaresSources(Protocol):
    """A reward whose verdicts come from elsewhere, such as a server; any reward may.

    `sources` has what each calls itself, by the setting that leads to it. A run that goes on has to find the
    same.
    """

    def sources(self) -> Mapping[str, str]: ...


@runtime_checkable
class DeclaresOutcomes(Protocol):
    """A reward that says which outcomes its verdicts have; any reward may.

    Each is then counted at every step, where it is zero too, so that means over steps are unbiased.
    """

    @property
    def outcomes(self) -> Sequence[str]: ...


@runtime_checkable
class ListsRightAnswers(Protocol):
    """A reward that can list the right answers of a question; any reward may.

    `right_answers` has them in the normal form of `Verdict.answer`, each once; it is empty for a question
    whose right answers cannot be listed. Evaluations then say how many of them samples contain.
    """

    def right_answers(self, prompt: Prompt) -> Sequence[str]: ...


@runtime_checkable
class OutputHead(Protocol):
    """Last hidden states to logits over the vocabulary, as the trainer reads them.

    `frozen` says that nothing of it is trained. `prepared` is the same head with its embedding cast once, for
    whoever calls it often.
    """

    @property
    def frozen(self) -> bool: ...

    def prepared(self) -> "OutputHead": ...

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]: ...


@runtime_checkable
class GenerativeModel(Protocol):
    """What an engine may know of the policy: a causal LM with a key-value cache, and its special ids.

    `decoder` is the network without its head; its output has `last_hidden_state`, from which `head` makes the
    logits that the trainer reads. `cache_argument` is the network's word for its cache, as argument and in
    its output. `computing` sets the compute dtype, `evaluating` puts the network in eval mode and back.
    """

    @property
    def network(self) -> torch.nn.Module: ...

    @property
    def decoder(self) -> torch.nn.Module: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def cache_argument(self) -> str: ...

    def head(self, temperature: float) -> OutputHead: ...

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
class AnswersBoth(Protocol):
    """An engine that reads `with_greedy` of a request: a prompt is computed once for a greedy completion and
    for sampled ones, which is what an evaluation asks for.
    """

    @property
    def answers_both(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSizes:
    """What a run will sample at most, and on what.

    Attributes:
        card: bytes of the device.
        rows: completions of a call.
        tokens: of the longest prompt and completion together.
        token_bytes: keys and values of a token, of all layers.
        vocabulary: logits of a row.
    """

    card: int
    rows: int
    tokens: int
    token_bytes: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMemory:
    """What an engine holds on the trainer's device, in bytes.

    Attributes:
        sampling: while it samples, beside the trainer's own weights.
        between: between two rollouts.
        under: what it would hold under a setting of its group that makes it hold less.
    """

    sampling: int = 0
    between: int = 0
    under: Mapping[str, "EngineMemory"] = field(default_factory=dict[str, "EngineMemory"])


@runtime_checkable
class HoldsDeviceMemory(Protocol):
    """An engine that holds memory of the trainer's device; any engine may.

    It is asked before anything is allocated, so that a run that does not fit is refused.
    """

    def device_memory(self, sizes: SamplingSizes) -> EngineMemory: ...


@runtime_checkable
class AdvantageEstimator(Protocol):
    """Rewards to advantages, per completion, without gradient. NaN rewards give advantage zero."""

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion: ...


@runtime_checkable
class GroupedAdvantageEstimator(Protocol):
    """An advantage that reads more of a rollout than rewards and groups, in place of `AdvantageEstimator`.

    Per completion, without gradient; NaN rewards give advantage zero. `GroupedRewards` may come to hold more.
    """

    def estimate(self, rollout: GroupedRewards) -> PerCompletion: ...


@runtime_checkable
class TracksPrompts(Protocol):
    """An advantage that remembers prompts over the run, in place of `AdvantageEstimator`.

    Per completion, without gradient; NaN rewards give advantage zero and change nothing of what is
    remembered. `track` is a function of its arguments alone: the memory goes in with the visit and comes out
    beside the advantages, checkpoints keep it, and every rank computes it of all completions. `value` is the
    mean reward that a prompt is expected to have, from its numbers; they are empty of one never visited.
    """

    def track(self, rollout: GroupedRewards, visit: Visit) -> tuple[PerCompletion, PromptMemory]: ...

    def value(self, numbers: Sequence[float]) -> float: ...


@runtime_checkable
class PromptTracker(Protocol):
    """A prompt's value as a few numbers, empty before its first visit.

    `value` is the mean reward that they expect, `after` the numbers once a visit's rewards are known: at
    least one and none of them NaN, at a step of the run and a drift as in `Visit`.
    """

    def value(self, numbers: Sequence[float]) -> float: ...

    def after(
        self, numbers: Sequence[float], rewards: Sequence[float], *, step: int, drift: float
    ) -> list[float]: ...


@runtime_checkable
class UpdateAdvantage(Protocol):
    """Advantages that depend on where the policy is, asked before each update, without gradient.

    `old` and `live` are the log-probabilities of whole completions, sums over trained tokens, under the
    policies of the rollout and of the moment; `lengths` count those tokens.
    """

    def __call__(
        self,
        advantages: PerCompletion,
        old: PerCompletion,
        live: PerCompletion,
        lengths: Int[Tensor, " B"],
        group: GroupIds,
    ) -> PerCompletion: ...


@runtime_checkable
class TokenNormalisation(Protocol):
    """Centre and scale of a rollout's credit, over its trained tokens: (A_t - centre) / scale is trained on.

    Both are numbers of the rollout, without gradient.
    """

    def __call__(self, credit: PerToken, mask: TokenMask) -> tuple[Scalar, Scalar]: ...


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
        self, logprobs: PerToken, old_logprobs: PerToken, mask: TokenMask, advantages: PerToken
    ) -> PerToken: ...


@runtime_checkable
class Surrogate(Protocol):
    """Credit of each token, a loss to be minimised, from its log-ratio and its advantage.

    Positively homogeneous in the advantage: c times the advantage is c times the loss, for any c >= 0, so
    that a token's weight and a signed advantage that has taken the weight in are the same.
    `clipped` marks the tokens whose credit has exactly zero gradient though their advantage is not
    zero.
    """

    def __call__(self, log_ratio: PerToken, advantage: PerToken) -> PerToken: ...

    def clipped(self, log_ratio: PerToken, advantage: PerToken) -> TokenMask: ...


@runtime_checkable
class TrustRegion(Protocol):
    """A factor on each token's credit by how far the policy has moved from the old one, without gradient.

    `reads` says what `distance` wants of both: nothing, the sampled token's log-probabilities [...], or the
    vocabulary's [..., V], reduced to [...]; "top", the vocabulary's, and gives what each token would have if
    it were drawn, [..., V], while the trainer goes by `ReadsOldTop`. `log_ratio` is the token's own, whatever
    ratio the algorithm takes. A factor of zero takes the token out of the update, one below turns it round.
    """

    @property
    def reads(self) -> Literal["nothing", "sampled", "vocabulary", "top"]: ...

    def distance(self, old: Tensor, policy: Tensor) -> Tensor: ...

    def __call__(
        self, distance: PerToken, log_ratio: PerToken, advantages: PerToken, mask: TokenMask
    ) -> PerToken: ...


@runtime_checkable
class ReadsOldTop(Protocol):
    """A trust region whose distance may be read of the old policy's likeliest tokens.

    `top` is how many, none where `reads` is not "top". `between` takes the log-probabilities of the same bins
    under old policy and policy, [..., n].
    """

    @property
    def top(self) -> int: ...

    def between(self, old: Tensor, policy: Tensor) -> Tensor: ...


@runtime_checkable
class EntropyControl(Protocol):
    """What keeps the policy's entropy up.

    `reads` says how a token gains c times the entropy H_t at its state: "nothing", not at all; "sampled", its
    advantage has -c log pi_old(y_t) more; "vocabulary", its loss has -c H_t, with gradient. `gain` is c of
    the next step from what is remembered, nothing at first. `after` is what is remembered from then on, from
    the step's metrics, which are the same on all ranks; checkpoints keep it.
    """

    @property
    def reads(self) -> Literal["nothing", "sampled", "vocabulary"]: ...

    def gain(self, memory: Mapping[str, float]) -> float: ...

    def after(self, memory: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]: ...


@runtime_checkable
class ChoosesTokens(Protocol):
    """An entropy control that holds some tokens; any may.

    `chosen` is asked before each update, of all its rows at once: log-probabilities under the policy of the
    moment, advantages times weights, the tokens that the surrogate clips, a uniform number that belongs to
    each token wherever it stands, and which tokens are trained. Of the chosen ones `keeps` is the factor on
    the credit; `penalty` is what their loss has more, from log pi / pi_old with its gradient.
    """

    @property
    def keeps(self) -> float: ...

    def penalty(self, log_ratio: PerToken) -> PerToken: ...

    def chosen(
        self, logprobs: PerToken, advantages: PerToken, clipped: TokenMask, draws: PerToken, mask: TokenMask
    ) -> TokenMask: ...


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
    """D(pi_theta, anchor) per state, >= 0 in value where the docstring says so; a function of both alone.

    `reads` says what `__call__` wants: "nothing"; "sampled", the log-probabilities of the sampled
    token under policy, anchor and old policy, shape [...]; "vocabulary", log-probabilities over the
    vocabulary under policy and anchor, shape [..., V], reduced to [...]; "top", those of a few tokens and of
    the sampled one, through the parts of `ReadsTop`, while `__call__` takes tables [..., V] and gives what
    it would say if each token were drawn, [..., V]. Coefficient and anchor are the penalty's
    (`divergence.penalty`).
    """

    @property
    def reads(self) -> Literal["nothing", "sampled", "vocabulary", "top"]: ...

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor: ...


@runtime_checkable
class KnowsGradient(Protocol):
    """A divergence over the vocabulary that knows its gradient, which autograd then need not find.

    `gradient` is that of the sum of factor times divergence over states, with respect to the policy's
    log-probabilities [n, V], the factors [n]; a new tensor, made without autograd.
    """

    def gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor: ...


@runtime_checkable
class ReadsTop(Protocol):
    """A divergence that sums over the `k` likeliest tokens of anchor or policy, and reads the sampled one.

    `inside` is the sum over tokens [..., k] under policy and anchor, `inside_gradient` that of factors [n]
    times sums of tokens [n, k], to the policy's log-probabilities, a new tensor made without autograd.
    `outside` is what the sampled token adds where it is not among them, from its log-probabilities under
    policy, anchor and old policy.
    """

    @property
    def k(self) -> int: ...

    @property
    def of(self) -> Literal["anchor", "policy"]: ...

    def inside(self, policy: Tensor, anchor: Tensor) -> Tensor: ...

    def inside_gradient(self, policy: Tensor, anchor: Tensor, factor: Tensor) -> Tensor: ...

    def outside(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor: ...


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
    """Token weights [B, T], non-negative, without gradient; normalised to mean one outside.

    The same batch and seed give the same weights; randomness comes from streams derived from `seed`.
    """

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken: ...


@runtime_checkable
class SpanWeighting(Weighting, Protocol):
    """A weighting that scores spans, and the form that the trainer uses; `weighting.unscored` makes one of
    any.

    `covers` says, asked of a whole rollout, which completions it weighs; the others keep ones. `explain`
    gives the weights of covered completions, and the scored spans behind them.
    """

    def covers(self, batch: RolloutBatch) -> Bool[Tensor, " B"]: ...

    def explain(
        self, batch: RolloutBatch, scorer: Scorer, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]: ...


@runtime_checkable
class Roller(Protocol):
    """Samples on from beginnings of a rollout's completions, and has the answers judged as the rollout was.

    A beginning is a completion's row and how many of its tokens are kept. Each gets the rewards of `rolls`
    continuations, NaN without a verdict. They depend on the seed, the policy and the tokens of prompt and
    beginning alone, so that equal beginnings, which are sampled once, have the same.
    """

    def __call__(
        self, beginnings: Sequence[tuple[int, int]], *, rolls: int, seed: int
    ) -> Sequence[Sequence[float]]: ...


@runtime_checkable
class SegmentCredit(Protocol):
    """What stands in a weighting's place where credit is signed: [B, T], instead of advantages times weights.

    Asked of an entire rollout, whose `roller` it is; without gradient, zero where the mask is False. Beside
    it come the segments, each with its credit.
    """

    def credit(
        self, batch: RolloutBatch, scorer: Scorer, roller: Roller, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]: ...


@runtime_checkable
class BoundsRolls(Protocol):
    """Segment credit that says how many rolls of a completion it makes at most; any may.

    It is asked before anything is allocated.
    """

    @property
    def most_rolls(self) -> int: ...


@runtime_checkable
class StatesPasses(Protocol):
    """A weighting that says what it reads of the policy at each rollout; any weighting may.

    One line for each kind of pass, for whoever asks what a cell costs.
    """

    def passes(self) -> Sequence[str]: ...


@runtime_checkable
class ImportanceCorrection(Protocol):
    """A factor on each token's credit for the gap between sampler and old policy, without gradient.

    The call gives the factor, `log_weight` the logarithm of what it was before any bound, zero where the mask
    is False. `keeps` says which tokens stay in the update, from the policy of the update; the factor of the
    others is zero.
    """

    def log_weight(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken: ...

    def __call__(self, old_logprobs: PerToken, sampler_logprobs: PerToken, mask: TokenMask) -> PerToken: ...

    def keeps(
        self, logprobs: PerToken, sampler_logprobs: PerToken, advantages: PerToken, mask: TokenMask
    ) -> TokenMask: ...


@runtime_checkable
class BetaSchedule(Protocol):
    """The penalty's coefficient over a run, from the drift after each step; empty where none was measured."""

    def after(self, beta: float, drift: Mapping[str, float]) -> float: ...


@runtime_checkable
class Anchor(Protocol):
    """What a divergence is measured to: one part, or two whose probabilities are mixed.

    `share` is the second part's, (1 - share) q_1 + share q_2; of one part it is not read.
    """

    @property
    def parts(self) -> "Sequence[AnchorPart]": ...

    @property
    def share(self) -> float: ...


@runtime_checkable
class AnchorPart(Protocol):
    """A policy that a divergence is measured to.

    `source` is the start model or the policy of the rollout. `moves` says whether the start model's weights
    change with the run; then `after` gives the share of the policy that goes into them after a step,
    theta_a + share (theta - theta_a), from what it remembers and the step's metrics, and what it remembers
    from then on, which checkpoints keep.
    """

    @property
    def source(self) -> Literal["reference", "old"]: ...

    @property
    def moves(self) -> bool: ...

    def after(
        self, step: int, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> tuple[float, Mapping[str, float]]: ...


@runtime_checkable
class WatchesMetric(Protocol):
    """A part of an anchor that moves by a metric of the step; any part may. None watches none.

    A run whose steps have no such metric is refused after the first.
    """

    @property
    def measure(self) -> str | None: ...


@runtime_checkable
class LearningRateSchedule(Protocol):
    """The factor on the learning rate at an update, counted from 0, of so many."""

    def factor(self, update: int, updates: int) -> float: ...


@runtime_checkable
class Optimiser(Protocol):
    """What the trainer needs of an optimiser."""

    def step(self, lr: float) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state: StateDict) -> None: ...


@runtime_checkable
class OptimiserSpec(Protocol):
    """What a `conf/optim/<name>.yaml` builds: an optimiser over a network's trainable parameters."""

    def build(self, network: torch.nn.Module) -> Optimiser: ...


@runtime_checkable
class DeclaresStateBytes(Protocol):
    """An optimiser that says how many bytes it keeps beside weights and gradients; any may.

    Of one that does not, Adam's are assumed. `matrices` are the trained parameters of hidden matrices,
    `others` those of embeddings, head, norms and biases.
    """

    def state_bytes(self, matrices: int, others: int) -> int: ...


@runtime_checkable
class Tracker(Protocol):
    """A mirror of the local metric file; it may fail without consequences."""

    def start(self, *, run_id: str, name: str, config: Config, folder: str) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


@runtime_checkable
class TrackerSpec(Protocol):
    """What a `conf/tracking/<name>.yaml` builds: a tracker."""

    def build(self) -> Tracker: ...


@runtime_checkable
class LimitsCalls(Protocol):
    """A tracker's spec that says how many seconds a run may wait for one of its calls."""

    @property
    def limit_s(self) -> float: ...


@runtime_checkable
class CatchesUp(Protocol):
    """A tracker whose missing rows can be sent later; `catch_up` is the command."""

    def catch_up(self) -> str: ...
