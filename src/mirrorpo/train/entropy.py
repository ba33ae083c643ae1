"""What an entropy control does to an update."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Int
from torch import Tensor

from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL, covariances
from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import ChoosesTokens, EntropyControl
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken, TokenMask
from mirrorpo.core.tensors import integers
from mirrorpo.train.credit import TokenCredit
from mirrorpo.weighting.random import stream_of


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldTokens:
    """The tokens of an update that a control holds, [B, T], and what each adds to the covariance."""

    chosen: TokenMask
    covariance: PerToken


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyTerm:
    """An entropy control with its coefficient of a step.

    Attributes:
        control: how the entropy is kept up.
        coefficient: c, of this step.
        seed: of this step's draws.
    """

    control: EntropyControl
    coefficient: float = 0.0
    seed: int = 0

    def at_step(self, memory: Mapping[str, float], seed: int) -> Self:
        """The term of a step, from what the control remembers."""
        return replace(self, coefficient=self.control.gain(memory), seed=seed)

    def metrics(self) -> dict[str, float]:
        """The coefficient, of a control that has one."""
        return {} if self.control.reads == "nothing" else {"entropy/coefficient": self.coefficient}

    @property
    def gains(self) -> bool:
        """Whether each trained token gains from entropy, so that every completion has a gradient."""
        return self.control.reads != "nothing" and self.coefficient != 0

    @property
    def has_gradient(self) -> bool:
        """Whether the entropy over the vocabulary is part of the loss."""
        return self.gains and self.control.reads == "vocabulary"

    @property
    def chooses(self) -> bool:
        """Whether some tokens are held, which are chosen before each update."""
        return isinstance(self.control, ChoosesTokens)

    def credited(
        self,
        advantages: PerToken,
        weights: PerToken,
        batch: RolloutBatch,
        scope: Literal["credit", "loss"],
    ) -> tuple[PerToken, PerToken]:
        """Advantages and weights with what the sampled tokens gain; as they are where they gain nothing.

        A'_t = w_t A_t - c log pi_old(y_t),  w'_t = 1       scope: credit
        A'_t = A_t - c log pi_old(y_t),      w'_t = w_t     scope: loss
        """
        if not self.gains or self.control.reads != "sampled":
            return advantages, weights
        gained = masked(-self.coefficient * batch.old_logprobs, batch.mask).to(advantages.dtype)
        if scope == "loss":
            return advantages + gained, weights
        return weights * advantages + gained, torch.ones_like(weights)

    def held(
        self,
        batch: RolloutBatch,
        credit: TokenCredit,
        rows: Int[Tensor, " N"],
        live: PerToken,
        algo: Algorithm,
        update: int,
    ) -> HeldTokens | None:
        """The tokens that an update of some rows holds; None where the control holds none.

        Args:
            batch: with the old policy's log-probabilities.
            credit: of its tokens.
            rows: of the update, each with a trained token.
            live: log-probabilities of the batch under the policy before the update.
            algo: whose surrogate clips some.
            update: of the rollout, from 0.
        """
        if not isinstance(self.control, ChoosesTokens):
            return None
        mask = batch.mask[rows]
        advantages, weights = credit.read(rows, mask.shape[1])
        advantages = masked(advantages.expand_as(weights), mask)
        old, live = (masked(values[rows], mask) for values in (batch.old_logprobs, live))
        clipped = algo.surrogate.clipped(algo.ratio(live, old, mask, advantages), advantages)
        credited = masked(advantages * weights, mask)
        draws = self._draws(batch, rows, update)
        chosen, covariance = torch.zeros_like(batch.mask), torch.zeros(batch.mask.shape, dtype=torch.float64)
        chosen[rows] = self.control.chosen(live, credited, clipped, draws, mask) & mask
        covariance[rows] = covariances(live, credited, mask)
        return HeldTokens(chosen=chosen, covariance=covariance)

    def _draws(self, batch: RolloutBatch, rows: Int[Tensor, " N"], update: int) -> PerToken:
        # Named after the completion, so that a token has its number wherever it stands.
        draws = torch.zeros(batch.mask[rows].shape, dtype=torch.float64)
        lengths = integers(batch.present.sum(dim=1))
        for index, row in enumerate(integers(rows)):
            stream = generator(self.seed, "entropy", update, *stream_of(batch, row))
            draws[index, : lengths[row]] = torch.rand(lengths[row], dtype=torch.float64, generator=stream)
        return draws

    def applied(self, policy: PolicyOutputs, batch: RolloutBatch, chosen: TokenMask | None) -> PolicyOutputs:
        """The live policy's outputs with what the control adds to the loss of a micro-batch, and with what it
        keeps of its credit.
        """
        kept: PerToken | None = None
        added = masked(-self.coefficient * policy.entropy, batch.mask) if self.has_gradient else None
        if chosen is not None and isinstance(self.control, ChoosesTokens):
            log_ratio = masked(policy.logprobs - batch.old_logprobs, batch.mask)
            kept = torch.where(chosen, self.control.keeps, torch.ones_like(log_ratio))
            paid = masked(self.control.penalty(log_ratio), chosen)
            added = paid if added is None else added + paid
        if kept is None and added is None:
            return policy
        return replace(policy, kept=kept, added=added)


NO_ENTROPY_TERM = EntropyTerm(control=NO_ENTROPY_CONTROL)
