"""Each metric's one definition and one denominator; keys are `room/quantity`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import TypeAlias

import torch
from torch import Tensor

from mirrorpo.algo.importance_correction import sampler_ratio
from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch, Verdict, Visit
from mirrorpo.core.masked import group_mean
from mirrorpo.core.shapes import PerCompletion, PerToken, TokenMask
from mirrorpo.core.tensors import integers, numbers
from mirrorpo.divergence.kl import k3

Positions: TypeAlias = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums and counts, read out as means; and largest values."""

    sums: Mapping[str, float]
    counts: Mapping[str, int]
    largest: Mapping[str, float]

    @classmethod
    def joined(cls, parts: Sequence["Totals"]) -> "Totals":
        """Those of several ranks as one."""
        if len(parts) == 1:
            return parts[0]
        sums, counts, largest = dict[str, float](), dict[str, int](), dict[str, float]()
        for part in parts:
            sums.update({name: sums.get(name, 0.0) + total for name, total in part.sums.items()})
            counts.update({name: counts.get(name, 0) + count for name, count in part.counts.items()})
            largest.update(
                {name: max(largest.get(name, -math.inf), value) for name, value in part.largest.items()}
            )
        return cls(sums=sums, counts=counts, largest=largest)

    def means(self) -> dict[str, float]:
        """Of everything that has a count, and the largest values."""
        means = {name: total / self.counts[name] for name, total in self.sums.items() if self.counts[name]}
        return {**means, **self.largest}


@dataclass(slots=True)
class RunningMeans:
    """Sums and counts that micro-batches add to, and largest values, on the device that computes them."""

    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    largest: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, name: str, values: Tensor, positions: Positions) -> None:
        """Add the values at some positions, or where a mask is True, in float64."""
        picked = values.detach()[positions].double()
        self.sums[name] = self.sums.get(name, 0.0) + picked.sum()
        self.counts[name] = self.counts.get(name, 0) + picked.numel()

    def raise_to(self, name: str, values: Tensor, positions: Positions) -> None:
        """Keep the largest of the values at some positions, or where a mask is True; a NaN never is."""
        picked = values.detach()[positions]
        if picked.numel():
            highest = picked.max()
            before = self.largest.get(name, torch.full_like(highest, -math.inf))
            self.largest[name] = torch.where(highest > before, highest, before)

    def totals(self, *others: Tensor) -> tuple[Totals, list[float]]:
        """The sums as numbers, and other numbers, all by one read of the device."""
        values = numbers([*self.sums.values(), *self.largest.values(), *others])
        sums = dict(zip(self.sums, values, strict=False))
        largest = dict(zip(self.largest, values[len(sums) :], strict=False))
        totals = Totals(sums=sums, counts=self.counts, largest=largest)
        return totals, values[len(sums) + len(largest) :]


def baseline_metrics(algo: Algorithm, visit: Visit) -> dict[str, float]:
    """Of the tracked values that a rollout's advantages were taken from; empty where none are tracked.

    Per completion: `baseline/value`, and `baseline/seen`, the share whose prompt was visited before.
    """
    value_of = algo.value_of(visit.memory)
    if value_of is None:
        return {}
    count = len(visit.uids)
    return {
        "baseline/value": sum(map(value_of, visit.uids)) / count,
        "baseline/seen": sum(uid in visit.memory for uid in visit.uids) / count,
    }


def rollout_metrics(
    verdicts: Sequence[Verdict],
    batch: RolloutBatch,
    advantages: PerCompletion,
    weights: PerToken,
    outcomes: Sequence[str] = (),
) -> dict[str, float]:
    """What the step's rollout looks like, before the update.

    Per completion: `reward/*`, `completion/*`. Per group: `group/zero_advantage`, the share of groups
    whose advantages are all zero. Per completion over its trained tokens: `weight/effective_tokens`,
    (sum w)^2 / sum w^2 over the number of tokens. `outcome/<name>` counts completions: of every outcome that
    the reward declares, and of others where they came.
    """
    known = [verdict for verdict in verdicts if not math.isnan(verdict.reward)]
    rewards = batch.rewards[~batch.rewards.isnan()].double()
    lengths = batch.present.sum(dim=1).double()
    within = (batch.rewards - group_mean(batch.rewards, batch.group)).square()
    spread = group_mean(within, batch.group).sqrt()
    groups = set(integers(batch.group))
    with_advantage = set(integers(batch.group[advantages != 0]))
    used = batch.mask.any(dim=1)
    share = weights.sum(dim=1).square() / (weights.square().sum(dim=1) * batch.mask.sum(dim=1)).clamp(
        min=1e-12
    )
    out = {
        "reward/mean": _mean(rewards),
        "reward/group_std": _mean(spread.double()),
        "reward/strict": _mean(torch.tensor([verdict.strict for verdict in known]).double()),
        "reward/flexible": _mean(torch.tensor([verdict.flexible for verdict in known]).double()),
        "completion/length": _mean(lengths),
        "completion/length_min": float(lengths.min()),
        "completion/length_max": float(lengths.max()),
        "completion/truncated": _mean(batch.truncated.double()),
        "completion/trained": _mean(used.double()),
        "group/zero_advantage": 1 - len(with_advantage) / len(groups),
        "weight/effective_tokens": _mean(share[used].double()),
        "weight/max": float(weights.max()),
    }
    for outcome in sorted({verdict.outcome for verdict in verdicts} | {*outcomes, "unverifiable"}):
        out[f"outcome/{outcome}"] = float(sum(verdict.outcome == outcome for verdict in verdicts))
    return out | part_metrics(verdicts, "reward")


def part_metrics(verdicts: Sequence[Verdict], room: str) -> dict[str, float]:
    """The parts of composed rewards, and the gold beside a proxy; empty for any other reward.

    `part/<name>`: the mean of a part, before its weight, over the completions on which it has a value;
    `unverifiable/<name>`: on how many it has none. `gold` and `gold_unverifiable`: the same of the gold. Over
    the completions with a value of both, `gold_gap` is the mean of the trained reward less the gold, and
    `gold_correlation` their Pearson correlation, NaN where either is constant.
    """
    out = dict[str, float]()
    for name in dict.fromkeys(name for verdict in verdicts for name in verdict.parts):
        values = torch.tensor([verdict.parts[name] for verdict in verdicts if name in verdict.parts]).double()
        out[f"{room}/part/{name}"] = _mean(values[~values.isnan()])
        out[f"{room}/unverifiable/{name}"] = float(values.isnan().sum())
    pairs = [(verdict.reward, verdict.gold) for verdict in verdicts if verdict.gold is not None]
    if not pairs:
        return out
    trained, gold = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    both = ~(trained.isnan() | gold.isnan())
    return out | {
        f"{room}/gold": _mean(gold[~gold.isnan()]),
        f"{room}/gold_unverifiable": float(gold.isnan().sum()),
        f"{room}/gold_gap": _mean((trained - gold)[both]),
        f"{room}/gold_correlation": _correlation(trained[both], gold[both]),
    }


def update_metrics(
    means: RunningMeans,
    policy: PolicyOutputs,
    batch: RolloutBatch,
    advantages: PerToken,
    algo: Algorithm,
    *,
    first: bool,
    anchored: bool,
) -> None:
    """Add one micro-batch's tokens to the update's means; the denominator of each is trained tokens.

    `ratio/mean` and `ratio/clip_fraction` (trained tokens with a nonzero advantage and zero surrogate
    gradient), `kl/old` (k3 for KL(old, live)), `divergence/value`,
    `entropy/mean`. On the first update of a rollout, when the live policy is the old one, also
    `kl/sampler` (k3 for KL(sampler, old)) and `kl/reference` (k3 for KL(old, anchor)). Each is the k3 of
    the policy that the tokens come from. Beside them the ratio pi_old / mu of old policy and sampler:
    `mismatch/ratio_mean`, `mismatch/ratio_max`. All of these are NaN where nothing was sampled. With a trust
    region `trust_region/distance`, `trust_region/factor`, and of tokens with an advantage
    `trust_region/masked`, the share whose factor is not above zero, and `trust_region/position`, how far into
    their completion those stand, from 0 to 1.
    """
    mask, trained = batch.mask, batch.located().trained
    live = policy.logprobs.detach()
    log_ratio = algo.ratio(live, batch.old_logprobs, mask, advantages)
    means.add("ratio/mean", log_ratio.exp(), trained)
    means.add("ratio/clip_fraction", algo.surrogate.clipped(log_ratio, advantages).to(live.dtype), trained)
    means.add("kl/old", k3(batch.old_logprobs, live), trained)
    means.add("divergence/value", policy.divergence, trained)
    if policy.distance is not None and policy.factor is not None:
        _region_metrics(means, policy.distance, policy.factor, mask, advantages)
    if first:
        means.add("entropy/mean", policy.entropy, trained)
        means.add("kl/sampler", k3(batch.sampler_logprobs, live), trained)
        off = sampler_ratio(batch.old_logprobs, batch.sampler_logprobs, mask)
        means.add("mismatch/ratio_mean", off, trained)
        means.raise_to("mismatch/ratio_max", off, trained)
        if anchored:
            means.add("kl/reference", k3(live, batch.anchor_logprobs), trained)


def _region_metrics(
    means: RunningMeans, distance: PerToken, factor: PerToken, mask: TokenMask, advantages: PerToken
) -> None:
    credited = mask & (advantages != 0)
    outside = credited & (factor <= 0)
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    means.add("trust_region/distance", distance, mask)
    means.add("trust_region/factor", factor, mask)
    means.add("trust_region/masked", outside.to(factor.dtype), credited)
    means.add("trust_region/position", (mask.cumsum(dim=1) - 1).to(factor.dtype) / last, outside)


def held_metrics(means: RunningMeans, chosen: TokenMask, covariance: PerToken, mask: TokenMask) -> None:
    """Add an update's tokens to the means of an entropy control that holds some.

    `entropy/held`, the share of trained tokens; `entropy/covariance`, of their log-probability and advantage,
    and `entropy/covariance_max`, the largest share of a token in it.
    """
    means.add("entropy/held", chosen.double(), mask)
    means.add("entropy/covariance", covariance, mask)
    means.raise_to("entropy/covariance_max", covariance, mask)


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Probability that one of k samples drawn without replacement is right, unbiased.

        1 - C(n - c, k) / C(n, k)

    Example:
        >>> pass_at_k(1, 4, 1), pass_at_k(1, 4, 4)
        (0.25, 1.0)

    References:
        Chen et al. 2021 (Codex), section 2.1, https://arxiv.org/abs/2107.03374
    """
    return 1 - comb(samples - right, k) / comb(samples, k)


def coverage_at_k(counts: Sequence[int], samples: int, k: int) -> float:
    """Expected share of a question's right answers among k samples drawn without replacement.

        1/m sum_a 1 - C(n - c_a, k) / C(n, k)

    Each of the m summands is unbiased for the chance that k independent samples contain answer a, so this is
    for the expected share that they contain. With one right answer it is pass@k.

    Args:
        counts: how many of the samples give each right answer, zeros included; at least one.
        samples: n, of the question.
        k: how many of them are drawn, at most n.

    Example:
        >>> coverage_at_k([2, 0], 2, 1), coverage_at_k([1, 1, 0, 0], 2, 2)
        (0.5, 0.5)
    """
    return sum(pass_at_k(count, samples, k) for count in counts) / len(counts)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers; JSON has no NaN."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else float("nan")


def _correlation(first: Tensor, second: Tensor) -> float:
    if first.numel() < 2 or bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return float("nan")
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])
