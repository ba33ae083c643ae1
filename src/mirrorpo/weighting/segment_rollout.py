"""Signed credit by re-rolling: what each segment of a completion did to its expected reward."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import (
    Assembly,
    DeclaresInert,
    DeclaresModelNeeds,
    Inert,
    ModelNeed,
    Roller,
    Scorer,
    StatesPasses,
    StatesRequirements,
)
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.span import ScoredSpan, Span
from mirrorpo.core.tensors import integers
from mirrorpo.weighting.random import stream_of
from mirrorpo.weighting.segments import Segmenter


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRollout:
    """Each token has the credit of its segment, in place of an advantage with a weight.

        A_t = V(e_k) - V(e_(k-1)) for t in segment k = [e_(k-1), e_k)

    V(e) is the mean reward of `rolls` completions sampled on from the first e tokens; at the start, the mean
    reward of the group's other completions; at the end, the completion's own reward. So a completion's
    segments add up to the advantage of leave-one-out (`algo=rloo`). A cut without a verdict on any of its
    rolls is none.

    Value: of either sign; zero for a completion without a verdict, or whose group has no other one with one.
    Gradient: none. E[sum_t A_t grad log pi(y_t)] is the gradient of the expected reward where the tokens
    before a cut decide that it is one: V(e_k) then estimates without bias what follows segment k, and
    V(e_(k-1)) does not depend on it. Bias: of a choice of cuts that looks ahead, at the completion's length,
    its entropies or its drops,

        E[ sum_t (V(e_k) - R) grad log pi(y_t) ] - E[ sum_t (V(e_(k-1)) - V(0)) grad log pi(y_t) ],

    which is zero where the choice and what follows are independent given the tokens before, as where the
    prompt alone decides which span matters. The sign of a segment's credit is that of its own gain; a segment
    that holds several spans has their gain in sum, none of it is shared out between them.

    Attributes:
        segments: where completions are cut.
        rolls: from each cut, >= 1.
        budget: rolls a completion, >= `rolls`; with more cuts than it allows, `segments` says which of them.
        order: "rolled"; or "permuted", a control with the same credits in each completion, dealt to its
            segments in random order.

    References:
        VinePPO, Kazemnejad et al. 2024, https://arxiv.org/abs/2410.01679; SPO, Guo et al. 2025,
        https://arxiv.org/abs/2505.23564. The start's value by the group, and the budget, are ours
    """

    segments: Segmenter
    rolls: int
    budget: int
    order: Literal["rolled", "permuted"]

    def __post_init__(self) -> None:
        if not 1 <= self.rolls <= self.budget:
            raise ValueError(
                f"weighting.rolls={self.rolls}, weighting.budget={self.budget}: give at least 1 roll, and a "
                "budget of as many or more"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Others to compare with, a policy to roll with, and nothing that changes a completion's reward."""
        config = assembly.config
        algo, divergence, rollout = config["algo"], config["divergence"], config["rollout"]
        if rollout.get("lag") or rollout.get("coarse", "none") != "none":
            yield (
                f"rollout.lag={rollout.get('lag')}, rollout.coarse={rollout.get('coarse')} with "
                f"{group}=SegmentRollout: rolls are the policy's of the step; use rollout.lag=0 "
                "rollout.coarse=none"
            )
        if not assembly.rollout.samples:
            yield f"{group}: re-rolling with demonstrations has no sampler; choose another weighting"
        elif config["group_size"] < 2:
            yield (
                f"group_size={config['group_size']} with {group}=SegmentRollout: the start's value is that "
                "of the group's other completions; use group_size=2 or more"
            )
        if (divergence.get("placement") or algo.get("penalty_placement")) == "completion":
            yield (
                f"divergence.placement=completion with {group}=SegmentRollout: rolls do not pay the penalty; "
                "use divergence.placement=reward_to_go"
            )
        if algo.get("update_advantage") is not None:
            yield (
                f"algo.update_advantage with {group}=SegmentRollout: it is no advantage of completions; use "
                "another algo, such as rloo"
            )
        if isinstance(self.segments, StatesRequirements):
            yield from self.segments.requirements(f"{group}.segments", assembly)

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What advantages and weights are made by."""
        yield Inert(
            ("algo.advantage", f"{group}.scope"),
            f"{group}=SegmentRollout gives credit of its own, with no advantage and no weight",
            "another weighting",
        )
        if isinstance(self.segments, DeclaresInert):
            yield from self.segments.inert(f"{group}.segments", assembly)

    def model_needs(self) -> Collection[ModelNeed]:
        """What finding the cuts does."""
        return self.segments.model_needs() if isinstance(self.segments, DeclaresModelNeeds) else ()

    def passes(self) -> Sequence[str]:
        """Those that find the cuts, and the rolls."""
        finding = self.segments.passes() if isinstance(self.segments, StatesPasses) else ()
        return (
            *finding,
            f"samples {self.rolls} completions on from each of at most {self.most_cuts} cuts of each "
            "completion, and has them judged",
        )

    @property
    def most_cuts(self) -> int:
        """Cuts of a completion that the budget allows."""
        return self.budget // self.rolls

    @property
    def most_rolls(self) -> int:
        """Rolls of a completion at most."""
        return self.most_cuts * self.rolls

    def credit(
        self, batch: RolloutBatch, scorer: Scorer, roller: Roller, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """Signed credit of each token, and the segments with theirs."""
        starts = _others_mean(batch)
        cuts = {
            row: row_cuts
            for row, row_cuts in enumerate(self.segments(batch, scorer, self.most_cuts))
            if math.isfinite(starts[row]) and bool(batch.mask[row].any())
        }
        beginnings = [(row, cut) for row, row_cuts in cuts.items() for cut in row_cuts]
        rewards = roller(beginnings, rolls=self.rolls, seed=seed)
        values = {beginning: _mean(of_cut) for beginning, of_cut in zip(beginnings, rewards, strict=True)}
        credit = torch.zeros(batch.present.shape)
        scored: list[ScoredSpan] = []
        lengths = integers(batch.present.sum(dim=1))
        for row, row_cuts in cuts.items():
            known = [(cut, values[row, cut]) for cut in row_cuts if math.isfinite(values[row, cut])]
            states = [(0, starts[row]), *known, (lengths[row], float(batch.rewards[row]))]
            spans = [Span(start, end, "segment") for (start, _), (end, _) in pairwise(states)]
            gains = [after - before for (_, before), (_, after) in pairwise(states)]
            if self.order == "permuted":
                stream = generator(seed, "weighting", "permuted", *stream_of(batch, row))
                gains = [gains[index] for index in integers(torch.randperm(len(gains), generator=stream))]
            for span, gain in zip(spans, gains, strict=True):
                credit[row, span.start : span.end] = gain
                scored.append(ScoredSpan(row=row, span=span, drop=gain))
        return masked(credit, batch.mask), scored


def _others_mean(batch: RolloutBatch) -> list[float]:
    # Of the other completions of each one's group; NaN where none has a verdict, or it has none itself.
    rewards = batch.rewards.double()
    known = rewards.isfinite()
    others = (batch.group[:, None] == batch.group[None, :]) & known[None, :]
    others &= ~torch.eye(len(batch), dtype=torch.bool)
    mean = masked(rewards.expand(len(batch), -1), others).sum(dim=1) / others.sum(dim=1)
    return [float(value) if verdict else math.nan for value, verdict in zip(mean, known, strict=True)]


def _mean(rewards: Sequence[float]) -> float:
    known = [reward for reward in rewards if math.isfinite(reward)]
    return sum(known) / len(known) if known else math.nan
