"""The factor between sampler and old policy, and what the loss does with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cli import ROOT
from completions import completion_of
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from mirrorpo.algo.importance_correction import BoundedImportance, TruncatedImportance, sampler_ratio
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.divergence.kl import K2
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.rollout.collate import collate
from mirrorpo.train.loss import policy_loss

NAN = float("nan")
CAP = 1.5


def draw(seed: int = 0) -> tuple[RolloutBatch, Tensor, Tensor]:
    """A ragged batch whose sampler is off, half of its ratios above the cap or near zero; live
    log-probabilities and divergences.
    """
    generator = torch.Generator().manual_seed(seed)
    completions = [
        completion_of([2] * length, group=group) for group, length in [(0, 5), (0, 2), (1, 4), (1, 3)]
    ]
    batch = collate(completions, [1.0, 0.0, 0.0, 1.0], pad_id=0, mask_truncated=False)
    old, live, divergences, gap = (
        torch.rand(batch.mask.shape, dtype=torch.float64, generator=generator) for _ in range(4)
    )
    batch = batch.with_(
        rewards=batch.rewards.double(), old_logprobs=-old, sampler_logprobs=-old + 2 * (gap - 0.5)
    )
    return batch, -live, divergences


def loss(
    batch: RolloutBatch,
    live: Tensor,
    divergences: Tensor,
    importance_correction: TruncatedImportance | BoundedImportance | None,
    scope: str = "credit",
    weights: Tensor | None = None,
) -> Tensor:
    algo = instantiate(OmegaConf.load(ROOT / "conf/algo/grpo.yaml"), _convert_="all")
    policy = PolicyOutputs(logprobs=live, entropy=torch.zeros_like(live), divergence=divergences)
    weights = torch.ones_like(live) if weights is None else weights
    advantages = algo.advantages(batch)
    penalty = Penalty(divergence=K2(), beta=0.1, anchor="reference", scope=scope, placement="loss")
    return policy_loss(
        policy,
        batch,
        advantages[:, None].expand_as(live),
        weights,
        algo=algo,
        penalty=penalty,
        importance_correction=importance_correction,
    )


def test_the_factor_is_the_ratio_cut_at_the_cap():
    batch, _, _ = draw()
    factor = TruncatedImportance(cap=CAP)(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
    cut = 0
    for row, column in batch.mask.nonzero().tolist():
        ratio = math.exp(float(batch.old_logprobs[row, column]) - float(batch.sampler_logprobs[row, column]))
        cut += ratio > CAP
        assert float(factor[row, column]) == pytest.approx(min(ratio, CAP), rel=1e-12)
    assert 0 < cut < int(batch.mask.sum())


def test_without_mismatch_it_is_one_to_the_bit_whatever_the_cap():
    batch, _, _ = draw()
    for cap in (1.0, 2.0, math.inf):
        factor = TruncatedImportance(cap=cap)(batch.old_logprobs, batch.old_logprobs.clone(), batch.mask)
        assert torch.equal(factor, torch.ones_like(factor))


@pytest.mark.parametrize("scope", ["credit", "loss"])
def test_without_mismatch_loss_and_gradient_are_those_of_no_correction_to_the_bit(scope: str):
    batch, live, divergences = draw()
    batch = batch.with_(sampler_logprobs=batch.old_logprobs.clone())
    results = []
    for importance_correction in (None, TruncatedImportance(cap=CAP)):
        leaf = live.clone().requires_grad_()
        value = loss(batch, leaf, divergences, importance_correction, scope)
        results.append((value, torch.autograd.grad(value, leaf)[0]))
    (value, slope), (corrected, corrected_slope) = results
    assert torch.equal(corrected, value) and torch.equal(corrected_slope, slope)


@pytest.mark.parametrize("scope", ["credit", "loss"])
def test_it_acts_on_the_credit_as_a_token_weight_of_the_credit_does(scope: str):
    batch, live, divergences = draw()
    importance_correction = TruncatedImportance(cap=CAP)
    leaves = [live.clone().requires_grad_(), divergences.clone().requires_grad_()]
    corrected = torch.autograd.grad(loss(batch, *leaves, importance_correction, scope), leaves)
    factor = importance_correction(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
    weighted = torch.autograd.grad(loss(batch, *leaves, None, "credit", weights=factor), leaves)
    for ours, expected in zip(corrected, weighted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_it_passes_no_gradient():
    batch, live, divergences = draw()
    old = batch.old_logprobs.clone().requires_grad_()
    assert not sampler_ratio(old, batch.sampler_logprobs, batch.mask).requires_grad
    loss(
        batch.with_(old_logprobs=old),
        live.requires_grad_(),
        divergences,
        TruncatedImportance(cap=CAP),
        "credit",
    ).backward()
    assert live.grad is not None and old.grad is None


def test_the_samplers_expectation_of_the_credit_becomes_the_old_policys():
    # E_mu[ pi_old / mu f ] = E_old[ f ], by enumeration, as long as the cap is not reached.
    mu, old, f = (
        torch.tensor([0.5, 0.3, 0.2]).double(),
        torch.tensor([0.4, 0.35, 0.25]).double(),
        torch.tensor([1.0, -2.0, 0.5]).double(),
    )
    factor = TruncatedImportance(cap=2.0)(
        old.log()[None], mu.log()[None], torch.ones(1, 3, dtype=torch.bool)
    )[0]
    torch.testing.assert_close((mu * factor * f).sum(), (old * f).sum())
    torch.testing.assert_close((mu * factor).sum(), torch.tensor(1.0).double())


def test_garbage_under_the_mask_and_tokens_that_one_side_finds_impossible_are_finite():
    old, sampler = torch.tensor([[NAN, -1.0, -9999.0, -1.0]]), torch.tensor([[-1.0, NAN, -1.0, -9999.0]])
    mask = torch.tensor([[False, False, True, True]])
    assert TruncatedImportance(cap=CAP)(old, sampler, mask).tolist() == [[1.0, 1.0, 0.0, CAP]]


@pytest.mark.parametrize("cap", [0.5, -1.0, NAN])
def test_a_cap_that_shrinks_every_token_is_refused(cap: float):
    with pytest.raises(ValueError, match=r"importance_correction\.cap"):
        TruncatedImportance(cap=cap)


# ---------------------------------------------------------------- level and rule


LEVELS = ("token", "segment", "geometric", "sequence")
LAX = {"low": 0.0, "high": None}


def bounded(
    level: str = "token", rule: str = "truncate", segment: int = 2, **other: Any
) -> BoundedImportance:
    settings = {"low": 0.6, "high": 1.4, "completion_bound": None, **other}
    of_segments = segment if level == "segment" else None
    return BoundedImportance(level=level, rule=rule, segment_tokens=of_segments, **settings)


def every_one(**other: Any) -> list[BoundedImportance]:
    return [bounded(level, rule, **other) for level in LEVELS for rule in ("truncate", "mask")]


def by_hand(of: BoundedImportance, log_ratios: Sequence[float]) -> list[float]:
    """The equations of the docstring, on one completion's trained tokens."""
    n, out = len(log_ratios), []
    for t, log_ratio in enumerate(log_ratios):
        size = of.segment_tokens or 1
        log_w = {
            "token": log_ratio,
            "segment": sum(log_ratios[t // size * size : (t // size + 1) * size]),
            "sequence": sum(log_ratios),
            "geometric": sum(log_ratios) / n,
        }[of.level]
        w, high = math.exp(log_w), math.inf if of.high is None else of.high
        inside = of.low <= w <= high
        out.append(min(max(w, of.low), high) if of.rule == "truncate" else w * inside)
    return out


def test_every_level_and_rule_is_its_equation() -> None:
    batch, _, _ = draw()
    for correction in [*every_one(), *every_one(**LAX), bounded("segment", segment=3)]:
        factor = correction(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
        for row, mask in enumerate(batch.mask):
            gaps = (batch.old_logprobs - batch.sampler_logprobs)[row][mask].tolist()
            assert factor[row][mask].tolist() == pytest.approx(by_hand(correction, gaps), rel=1e-12), (
                correction
            )


def test_a_sampler_that_agrees_has_weight_one_to_the_bit_at_every_level() -> None:
    batch, live, divergences = draw()
    batch = batch.with_(sampler_logprobs=batch.old_logprobs.clone())
    leaf = live.clone().requires_grad_()
    plain = loss(batch, leaf, divergences, None)
    (expected,) = torch.autograd.grad(plain, leaf)
    for correction in [*every_one(), *every_one(low=1.0, high=1.5), *every_one(**LAX)]:
        factor = correction(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
        assert torch.equal(factor[batch.mask], torch.ones_like(factor[batch.mask])), correction
        value = loss(batch, leaf, divergences, correction)
        assert torch.equal(value, plain) and torch.equal(torch.autograd.grad(value, leaf)[0], expected)


def test_a_segment_of_one_token_is_the_token_and_one_of_all_tokens_the_sequence() -> None:
    batch, _, _ = draw()
    both = batch.old_logprobs, batch.sampler_logprobs, batch.mask
    assert torch.equal(bounded("segment", segment=1, **LAX)(*both), bounded("token", **LAX)(*both))
    longest, sequence = bounded("segment", segment=99, **LAX)(*both), bounded("sequence", **LAX)(*both)
    torch.testing.assert_close(longest, sequence, rtol=1e-12, atol=0)
    truncated = TruncatedImportance(cap=CAP)(*both)
    assert torch.equal(truncated, bounded(low=0.0, high=CAP)(*both))


def test_garbage_padding_order_and_micro_batches_change_no_factor() -> None:
    batch, _, _ = draw()
    old, sampler, mask = batch.old_logprobs, batch.sampler_logprobs, batch.mask
    order = torch.tensor([2, 0, 3, 1])
    wide = [torch.nn.functional.pad(values, (0, 3), value=NAN) for values in (old, sampler)]
    wider = torch.nn.functional.pad(mask, (0, 3))
    garbage = [torch.where(mask, values, NAN) for values in (old, sampler)]
    for correction in every_one(completion_bound=0.1):
        expected = torch.where(mask, correction(old, sampler, mask), 0)
        for there in (garbage, [values.masked_fill(~mask, 1e30) for values in (old, sampler)]):
            factor = correction(*there, mask)
            assert torch.equal(torch.where(mask, factor, 0), expected) and bool(factor.isfinite().all())
        padded = correction(*wide, wider)
        torch.testing.assert_close(padded[:, : mask.shape[1]][mask], expected[mask], rtol=1e-12, atol=0)
        assert torch.equal(
            correction(old[order], sampler[order], mask[order])[mask[order]], expected[order][mask[order]]
        )
        halves = torch.cat(
            [correction(old[half], sampler[half], mask[half]) for half in (slice(2), slice(2, 4))]
        )
        assert torch.equal(halves[mask], expected[mask])


def test_a_completion_without_a_trained_token_is_finite() -> None:
    old, mask = torch.tensor([[NAN, NAN]]), torch.zeros(1, 2, dtype=torch.bool)
    for correction in every_one(completion_bound=0.0):
        assert bool(correction(old, old, mask).isfinite().all())
        assert bool(correction.keeps(old, old, -torch.ones(1, 2), mask).all())


def test_a_weight_beyond_float32_is_bounded_or_left_out() -> None:
    old, sampler, mask = torch.zeros(1, 3), torch.full((1, 3), -50.0), torch.ones(1, 3, dtype=torch.bool)
    assert bounded("sequence").log_weight(old, sampler, mask)[0].tolist() == [150.0] * 3
    assert bounded("sequence")(old, sampler, mask)[0].tolist() == pytest.approx([1.4] * 3)
    assert bounded("sequence", "mask")(old, sampler, mask)[0].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"low": 1.1}, r"importance_correction\.low=1\.1"),
        ({"high": 0.9}, r"high=0\.9"),
        ({"low": NAN}, r"importance_correction\.low=nan"),
        ({"rule": "mask", "low": 1.0, "high": 1.0}, r"rule=mask"),
        ({"level": "segment", "segment": 0}, r"segment_tokens=0"),
        ({"completion_bound": -0.1}, r"completion_bound=-0\.1"),
    ],
)
def test_bounds_that_would_correct_a_sampler_that_agrees_are_refused(settings: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        bounded(**settings)
    with pytest.raises(ValueError, match="segment_tokens=None with level=segment"):
        BoundedImportance(
            level="segment", rule="mask", low=0.5, high=2.0, segment_tokens=None, completion_bound=None
        )


# ---------------------------------------------------------------- all completions of two of five tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Two tokens of a vocabulary of five: all 25 completions, a sampler, and an old policy by its logits."""

    first: Tensor
    second: Tensor
    sampler: Tensor
    rewards: Tensor

    @classmethod
    def drawn(cls, gap: float = 0.7) -> "World":
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        first, second = normal(5), normal(5, 5)
        off = cls._tokens(first + gap * normal(5), second + gap * normal(5, 5))
        return cls(first=first, second=second, sampler=off, rewards=normal(25))

    @staticmethod
    def _tokens(first: Tensor, second: Tensor) -> Tensor:
        # Log-probabilities [25, 2] of each completion's tokens.
        both = torch.log_softmax(first, 0)[:, None].expand(5, 5), torch.log_softmax(second, 1)
        return torch.stack([values.reshape(25) for values in both], dim=1)

    def gradient(self, correction: BoundedImportance | None, advantages: Tensor | None = None) -> Tensor:
        """The sampler's expectation of the loss's gradient with respect to all logits."""
        leaves = [self.first.clone().requires_grad_(), self.second.clone().requires_grad_()]
        live = self._tokens(*leaves)
        batch = collate(
            [completion_of([2, 3], group=row) for row in range(25)],
            [0.0] * 25,
            pad_id=0,
            mask_truncated=False,
        ).with_(old_logprobs=live.detach(), sampler_logprobs=self.sampler)
        probability = self.sampler.sum(dim=1).exp()
        # Every completion as often as it is sampled: an expectation, since the surrogate is linear in A.
        credit = (probability * (self.rewards if advantages is None else advantages))[:, None].expand(25, 2)
        algo = instantiate(
            OmegaConf.create(
                {"max_new_tokens": 1, "algo": OmegaConf.load(ROOT / "conf/algo/dr_grpo.yaml")}
            ).algo,
            _convert_="all",
        )
        policy = PolicyOutputs(
            logprobs=live, entropy=torch.zeros_like(live), divergence=torch.zeros_like(live.detach())
        )
        penalty = Penalty(
            divergence=NoDivergence(), beta=0.0, anchor="reference", scope="credit", placement="loss"
        )
        value = 25 * policy_loss(
            policy,
            batch,
            credit,
            torch.ones_like(live),
            algo=algo,
            penalty=penalty,
            importance_correction=correction,
        )
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, leaves)])

    def stated(self, states: Tensor, onward: Tensor) -> Tensor:
        """-(E grad log pi(y_1) R + E grad log pi(y_2 | y_1) R), by who chooses what.

        Args:
            states: log-probabilities of the first tokens in the second's term.
            onward: of the second tokens in the first's term.
        """
        leaves = [self.first.clone().requires_grad_(), self.second.clone().requires_grad_()]
        live = self._tokens(*leaves)
        old = live.detach()
        of_first, of_second = (old[:, 0] + onward[:, 1]).exp(), (states[:, 0] + old[:, 1]).exp()
        value = -(self.rewards * (of_first * live[:, 0] + of_second * live[:, 1])).sum()
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, leaves)])


def close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-10, atol=1e-12)


def test_the_sequence_is_unbiased_and_the_token_keeps_the_samplers_states_and_its_way_on() -> None:
    world = World.drawn()
    old, mu = world._tokens(world.first, world.second), world.sampler
    policy_gradient, mixed = world.stated(old, old), world.stated(mu, mu)
    for unbiased in ("sequence", "segment"):
        assert close(world.gradient(bounded(unbiased, **LAX)), policy_gradient), unbiased
    for biased in (bounded("token", **LAX), bounded("segment", segment=1, **LAX)):
        assert close(world.gradient(biased), mixed)
    uncorrected, geometric = world.gradient(None), world.gradient(bounded("geometric", **LAX))
    # They are five different expectations, and each correction is nearer than none.
    distances = [float((gradient - policy_gradient).norm()) for gradient in (uncorrected, geometric, mixed)]
    assert distances[0] > distances[1] > 0.01 and distances[0] > distances[2] > 0.01


def test_a_bound_shrinks_or_leaves_out_exactly_what_lies_beyond_it() -> None:
    world = World.drawn()
    old = world._tokens(world.first, world.second)
    ratio = (old - world.sampler).sum(dim=1).exp()
    high = 1.5
    outside = ratio > high
    assert 0 < int(outside.sum()) < 25
    exact = world.gradient(bounded("sequence", **LAX))
    # R of what is beyond the bound, less what the bound leaves of it.
    for rule, kept in (("truncate", high / ratio), ("mask", torch.zeros_like(ratio))):
        lost = torch.where(outside, world.rewards * (1 - kept), 0.0)
        missing = world.gradient(bounded("sequence", **LAX), lost)
        assert close(world.gradient(bounded("sequence", rule, low=0.0, high=high)) + missing, exact), rule
    raised = bounded("sequence", low=0.5, high=None)
    gained = torch.where(ratio < 0.5, world.rewards * (0.5 / ratio - 1), 0.0)
    assert close(world.gradient(raised) - world.gradient(bounded("sequence", **LAX), gained), exact)


def test_no_gap_is_the_policy_gradient_at_every_level() -> None:
    world = World.drawn(gap=0.0)
    old = world._tokens(world.first, world.second)
    for correction in (None, *every_one(), *every_one(completion_bound=0.0)):
        assert close(world.gradient(correction), world.stated(old, old)), correction


# ---------------------------------------------------------------- completions that are left out


def test_completions_with_a_negative_advantage_that_became_unlikely_are_left_out() -> None:
    batch, live, divergences = draw()
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)[:, None].expand_as(live)
    means = [float((batch.sampler_logprobs - live)[row][batch.mask[row]].mean()) for row in range(4)]
    bound = (means[1] + means[2]) / 2
    correction = bounded(low=1.0, high=1.0, completion_bound=max(bound, 0.0))
    kept = correction.keeps(live, batch.sampler_logprobs, advantages, batch.mask)
    expected = [
        not (a < 0 and mean > correction.completion_bound)
        for a, mean in zip((1, -1, -1, 1), means, strict=True)
    ]
    assert 0 < expected.count(False) < 3
    assert kept.any(dim=1).tolist() == kept.all(dim=1).tolist() == expected
    # In the loss: as if their advantages were zero, and the others' weight is one.
    leaf = live.clone().requires_grad_()
    algo = instantiate(OmegaConf.load(ROOT / "conf/algo/grpo.yaml"), _convert_="all")
    shared = {
        "algo": algo,
        "penalty": Penalty(divergence=K2(), beta=0.1, anchor="reference", scope="credit", placement="loss"),
    }
    policy = PolicyOutputs(logprobs=leaf, entropy=torch.zeros_like(live), divergence=divergences)
    weights = torch.ones_like(live)
    left_out = policy_loss(policy, batch, advantages, weights, importance_correction=correction, **shared)
    zero = policy_loss(policy, batch, torch.where(kept, advantages, 0.0), weights, **shared)
    assert torch.equal(left_out, zero)
    both = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (left_out, zero)]
    torch.testing.assert_close(*both, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- other trainers' formulas


def test_truncated_and_masked_weights_are_those_of_trl_and_of_verl_by_formula() -> None:
    # TRL 1.16: exp of a token's difference, or of its sum over the completion, clamped to, or zeroed outside
    # of, vllm_importance_sampling_clip_min and _max. verl, SkyRL: the same of logs clamped to +-20.
    batch, _, _ = draw()
    difference = torch.where(batch.mask, batch.old_logprobs - batch.sampler_logprobs, 0.0)
    for level in ("token", "sequence"):
        theirs = difference if level == "token" else difference.sum(dim=1, keepdim=True).expand_as(difference)
        ratio, safe = theirs.exp(), theirs.clamp(-20, 20).exp()
        for weight in (ratio, safe):
            clamped = weight.clamp(min=0.6, max=1.4)
            zeroed = weight.masked_fill((weight < 0.6) | (weight > 1.4), 0.0)
            for rule, expected in (("truncate", clamped), ("mask", zeroed)):
                ours = bounded(level, rule)(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
                torch.testing.assert_close(ours[batch.mask], expected[batch.mask], rtol=1e-12, atol=0)
