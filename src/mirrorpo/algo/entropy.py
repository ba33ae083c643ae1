"""What keeps the policy's entropy up: a gain at each token, or a hand on the tokens that lower it most."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.masked import masked, masked_mean
from mirrorpo.core.protocols import Assembly, Inert
from mirrorpo.core.shapes import PerToken, TokenMask

# The metric that an adaptive coefficient follows, and what it remembers from step to step.
MEASURE = "entropy/mean"
COEFFICIENT, ENTROPY = "coefficient", "entropy"
# A log-ratio no larger may be the rounding of two passes of one policy, whose sign says nothing.
ROUNDING = 1e-4


class _WithoutGain:
    # A control whose coefficient is zero.
    __slots__ = ()

    @property
    def reads(self) -> Literal["nothing"]:
        """Nothing."""
        return "nothing"

    def gain(self, memory: Mapping[str, float]) -> float:
        """Zero."""
        return 0.0

    def after(self, memory: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing is remembered."""
        return memory


@dataclass(frozen=True, kw_only=True, slots=True)
class NoEntropyControl(_WithoutGain):
    """The entropy is measured and left alone."""


NO_ENTROPY_CONTROL = NoEntropyControl()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gain:
    # What a fixed and a moving coefficient share: how the entropy is read.
    estimator: Literal["exact", "sampled"]

    @property
    def reads(self) -> Literal["sampled", "vocabulary"]:
        """What the entropy is read of: the sampled token's log-probability, or the vocabulary's."""
        return "vocabulary" if self.estimator == "exact" else "sampled"

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A sampled entropy is that of tokens that were sampled."""
        if self.estimator == "sampled" and not assembly.rollout.samples:
            yield (
                f"{group}.estimator=sampled with rollout=demonstrations: nothing was sampled, so no token's "
                f"log-probability estimates an entropy; set {group}.estimator=exact"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bonus(_Gain):
    """A gain of c times the entropy at each trained token's state.

        exact      - c H_t  in the loss,  H_t = - sum_v pi(v) log pi(v),  c = coefficient
        sampled    A_t - c log pi_old(y_t)  in place of A_t, without gradient

    Gradient: of `exact`, with respect to the log-probabilities, c p_v (log p_v + 1); to the logits
    c p_v (log p_v + H_t). Of `sampled`, while the policy is the old one, the same in expectation, by
    grad H = - E[ log pi(y) grad log pi(y) ]; later, where nothing is clipped, that of the cross-entropy
    - sum_v pi(v) log pi_old(v). Both drop how a token changes which states come later, and their entropy.

    Attributes:
        estimator: "exact", over the vocabulary, or "sampled".
        coefficient: c, >= 0; 0 is no control, to the bit.

    Raises:
        ValueError: for a coefficient below zero, infinite, or not a number.

    References:
        Mnih et al. 2016 (A3C), section 4, https://arxiv.org/abs/1602.01783
    """

    coefficient: float

    def __post_init__(self) -> None:
        if not 0 <= self.coefficient < math.inf:
            raise ValueError(
                f"entropy.coefficient={self.coefficient}: a coefficient is not negative; a negative one "
                "would push the entropy down"
            )

    def gain(self, memory: Mapping[str, float]) -> float:
        """c, all the way."""
        return self.coefficient

    def after(self, memory: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing is remembered."""
        return memory

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Everything, where it is multiplied by zero."""
        if self.coefficient == 0:
            yield Inert(
                (group,),
                f"with {group}.coefficient=0 nothing is gained from entropy",
                f"a {group}.coefficient above 0",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive(_Gain):
    """`Bonus` with a coefficient that goes up while the entropy is at its target or below, and down above it.

        c' = c + step   if H <= target,   else c - step;   cut to [least, most]

    H is the mean entropy of a step's trained tokens under the policy that sampled them. With `only_below`
    nothing is gained in a step that follows one above the target, whatever c is.

    Value: an integral controller with a constant rate. A coefficient of zero goes on being moved. Gradient:
    as `Bonus`.

    Attributes:
        estimator: "exact", over the vocabulary, or "sampled".
        target: mean entropy of a token, in nats, > 0.
        start: c of the first step.
        step: how far c moves after each step, > 0.
        least: c does not fall below it, >= 0.
        most: nor rise above it.
        only_below: whether c acts only after a step at the target or below.

    References:
        He et al. 2025 (Skywork-OR1), https://arxiv.org/abs/2505.22312, whose gate is the step's own entropy;
        TRL's pull request 6140, whose gate is that of the step before, as here
    """

    target: float
    start: float
    step: float
    least: float
    most: float
    only_below: bool

    def __post_init__(self) -> None:
        bounded = 0 <= self.least <= self.start <= self.most < math.inf
        if not (0 < self.target < math.inf and 0 < self.step < math.inf and bounded):
            raise ValueError(
                f"entropy: target={self.target}, step={self.step}, least={self.least}, start={self.start}, "
                f"most={self.most}: target and step are above 0, least is not negative, start is in "
                "[least, most]"
            )

    def gain(self, memory: Mapping[str, float]) -> float:
        """c of the next step, from what is remembered of the last one."""
        if self.only_below and memory.get(ENTROPY, -math.inf) > self.target:
            return 0.0
        return memory.get(COEFFICIENT, self.start)

    def after(self, memory: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]:
        """c as moved, and the entropy that moved it; as before where none was measured."""
        entropy = metrics.get(MEASURE, math.nan)
        if math.isnan(entropy):
            return memory
        before = memory.get(COEFFICIENT, self.start)
        moved = before + self.step if entropy <= self.target else before - self.step
        return {COEFFICIENT: min(max(moved, self.least), self.most), ENTROPY: entropy}

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Everything, where the coefficient cannot leave zero."""
        if self.most == 0:
            yield Inert(
                (group,), f"with {group}.most=0 nothing is gained from entropy", f"a {group}.most above 0"
            )


def covariances(logprobs: PerToken, advantages: PerToken, mask: TokenMask) -> PerToken:
    """What each trained token adds to the covariance of log-probability and advantage.

        cov_t = (log pi(y_t) - mean) (A_t - mean)

    Means are over the trained tokens that are given, in float64.

    Value: zero at other tokens. The mean is the covariance, to which a policy-gradient step's fall of entropy
    is proportional, to first order. Gradient: none.

    Example:
        >>> logprobs, advantages = torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, -1.0]])
        >>> covariances(logprobs, advantages, torch.ones(1, 2, dtype=torch.bool))
        tensor([[1., 1.]], dtype=torch.float64)
    """
    both = [masked(values.detach(), mask).double() for values in (logprobs, advantages)]
    of_logprobs, of_advantages = (values - masked_mean(values, mask) for values in both)
    return masked(of_logprobs * of_advantages, mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class Covariance(_WithoutGain):
    """Holds the few tokens whose log-probability goes with their advantage, which lower the entropy most.

        clip    of the tokens with low < cov_t < high that the surrogate does not clip, a random share
                has no credit
        kl      the share of tokens with the largest cov_t has  beta |log pi(y_t) / pi_old(y_t)|  in its
                loss

    cov_t is of `covariances` over all trained tokens of an update, under the policy before it, of advantages
    times weights. A share is of those tokens, rounded down, and at least one token.

    Gradient: clip, exactly zero at the chosen tokens. kl, beta sign(log pi / pi_old) grad log pi beside that
    of the credit: of constant size, however small the ratio. So a log-ratio within 1e-4, as rounding makes
    between two passes of one policy, pays nothing: in the first update of a rollout the sign is noise.

    Attributes:
        method: "clip" or "kl".
        share: of the trained tokens, in (0, 1].
        low: of clip, the least covariance.
        high: of clip, the largest.
        beta: of kl, the penalty's coefficient, >= 0.

    References:
        Cui et al. 2025 (Clip-Cov, KL-Cov), https://arxiv.org/abs/2505.22617; the estimate |log ratio| of the
        KL and the least count of one are verl's, which takes means and shares over a micro-batch
    """

    method: Literal["clip", "kl"]
    share: float
    low: float
    high: float
    beta: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"entropy.share={self.share}: a share is above 0 and at most 1")
        if not self.low < self.high:
            raise ValueError(
                f"entropy.low={self.low}, high={self.high}: no covariance lies between them; give low < high"
            )
        if not 0 <= self.beta < math.inf:
            raise ValueError(
                f"entropy.beta={self.beta}: a coefficient is not negative; a negative one would push away "
                "from the old policy"
            )

    @property
    def keeps(self) -> float:
        """The factor on the credit of chosen tokens."""
        return 0.0 if self.method == "clip" else 1.0

    def penalty(self, log_ratio: PerToken) -> PerToken:
        """What the loss of chosen tokens has beside their credit."""
        nothing = torch.zeros_like(log_ratio)
        if self.method == "clip":
            return nothing
        size = log_ratio.abs()
        return self.beta * torch.where(size > ROUNDING, size, nothing)

    def chosen(
        self, logprobs: PerToken, advantages: PerToken, clipped: TokenMask, draws: PerToken, mask: TokenMask
    ) -> TokenMask:
        """The tokens to hold, of all trained tokens of an update."""
        of_tokens = covariances(logprobs, advantages, mask)
        count = max(int(self.share * int(mask.sum())), 1)
        if self.method == "kl":
            return _first(count, mask, -of_tokens, draws)
        in_band = mask & ~clipped & (of_tokens > self.low) & (of_tokens < self.high)
        return _first(count, in_band, draws)

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """There have to be advantages that differ."""
        if not assembly.rollout.samples:
            yield (
                f"{group}=covariance with rollout=demonstrations: all of them have the same advantage, so "
                f"nothing varies with it; set {group}=none"
            )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """That the penalty has no gradient, where the policy never leaves the old one."""
        if self.method == "kl" and self.beta != 0 and assembly.config["updates_per_rollout"] == 1:
            yield (
                f"{group}.method=kl with updates_per_rollout=1: the policy is the old one, and the penalty "
                f"has no gradient; set updates_per_rollout=2 or more, or {group}.method=clip"
            )

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What the other method reads; and everything, where the penalty is zero."""
        if self.method == "clip":
            yield Inert((f"{group}.beta",), f"{group}.method=clip has no penalty", f"{group}.method=kl")
            return
        yield Inert(
            (f"{group}.low", f"{group}.high"), f"{group}.method=kl has no band", f"{group}.method=clip"
        )
        if self.beta == 0:
            yield Inert((group,), f"with {group}.beta=0 no token is held", f"a {group}.beta above 0")
        elif assembly.config["updates_per_rollout"] == 1:
            yield Inert(
                (group,),
                "with updates_per_rollout=1 the policy is the old one, and the penalty of "
                f"{group}.method=kl has no gradient",
                f"updates_per_rollout=2 or more, or {group}.method=clip",
            )


def _first(count: int, among: TokenMask, *keys: Tensor) -> TokenMask:
    # The first tokens by the first key, where it is equal by the next: neither the order of rows nor padding
    # decides.
    flat = among.flatten().nonzero().flatten()
    for key in reversed(keys):
        flat = flat[torch.argsort(key.flatten()[flat], stable=True)]
    chosen = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    chosen[flat[:count]] = True
    return chosen.view_as(among)
