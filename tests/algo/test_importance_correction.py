"""The factor between sampler and old policy, and what the loss does with it."""

import math

import pytest
import torch
from cli import ROOT
from completions import completion_of
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from mirrorpo.algo.importance_correction import TruncatedImportance, sampler_ratio
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.divergence.kl import K2
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
    importance_correction: TruncatedImportance | None,
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
