"""Rows and settings against verl's formulas, written out here.

DPPO's masks, dual clip, REINFORCE++, the KL in the reward, OPO.

Where ours is another formula on purpose, the test says which: verl keeps a group of one at its reward, ours
gives it no advantage; verl adds 1e-8 to each probability of all other tokens, ours bounds it by that.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from completions import completion_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rows import CONF
from torch import Tensor

from mirrorpo.algo.surrogate import Clipped
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.divergence.kl import K1
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.placement import completion_cost
from mirrorpo.rollout.collate import collate
from mirrorpo.train.credit import signed_credit
from mirrorpo.train.loss import policy_loss

LENGTHS = [3, 6, 1, 4, 2, 5]
GROUPS = [0, 0, 0, 1, 1, 1]
REWARDS = [0.0, 1.0, 0.25, 1.0, 0.0, 0.0]
BETA = 0.3


@cache
def part(group: str, *overrides: str) -> Any:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = resolved(compose("train", overrides=[*overrides, "max_new_tokens=6"]))[group]
    return instantiate(node, _convert_="all")


def rollout(spread: float) -> tuple[RolloutBatch, Tensor]:
    """Two groups of three; old, reference and live log-probabilities stand far from each other."""
    draw = torch.Generator().manual_seed(1)
    completions = [
        completion_of(list(range(2, 2 + length)), group=group, prompt_ids=[1])
        for length, group in zip(LENGTHS, GROUPS, strict=True)
    ]
    batch = collate(completions, REWARDS, pad_id=0, mask_truncated=False)
    shape = batch.mask.shape
    old, anchor, live = (torch.randn(shape, dtype=torch.float64, generator=draw) for _ in range(3))
    old = -3 * old.abs() - 0.05
    live = torch.minimum(old + spread * live, torch.tensor(-0.01).double())
    anchor = torch.minimum(old + 0.5 * anchor, torch.tensor(-0.01).double())
    batch = batch.with_(rewards=batch.rewards.double(), old_logprobs=old, anchor_logprobs=anchor)
    return batch, live


def token_mean(table: Tensor, mask: Tensor) -> Tensor:
    return (table * mask).sum() / mask.sum()


# ---------------------------------------------------------------- DPPO


def verl_dppo(
    kind: str, live: Tensor, old: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """-A min(r, 20) log pi of the tokens that are kept, and which are."""
    weight = (live.detach() - old).clamp(-20, 20).exp().clamp(max=20)
    p, q = live.detach().exp(), old.exp()
    if kind == "tv":
        up, down = p - q <= high, p - q >= -low
    else:
        kl = q * (old - live.detach()) + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
        up, down = (kl <= high) | (p <= q), (kl <= low) | (p >= q)
    kept = torch.where(advantages > 0, up, down)
    return -advantages * weight * live * kept, kept


@pytest.mark.parametrize("kind", ["tv", "kl"])
def test_dppo_is_verls(kind: str) -> None:
    algo, region = part("algo", "algo=dppo"), part("trust_region", f"trust_region={kind}")
    batch, live = rollout(spread=6.0)
    advantages = algo.advantages(batch)[:, None].expand_as(live)
    leaf = live.clone().requires_grad_()
    loss, kept = verl_dppo(kind, leaf, batch.old_logprobs, advantages, region.low, region.high)
    (theirs,) = torch.autograd.grad(token_mean(loss, batch.mask), leaf)
    distance = masked(region.distance(batch.old_logprobs, live), batch.mask)
    log_ratio = masked(live - batch.old_logprobs, batch.mask)
    outputs = PolicyOutputs(
        logprobs=leaf,
        entropy=torch.zeros_like(live),
        divergence=torch.zeros_like(live),
        factor=region(distance, log_ratio, advantages, batch.mask),
    )
    ours = policy_loss(outputs, batch, advantages, batch.mask.double(), algo=algo, penalty=no_penalty())
    torch.testing.assert_close(torch.autograd.grad(ours, leaf)[0], theirs, rtol=1e-9, atol=1e-12)
    # Tokens are left out on either side, and the weight is bounded.
    out = ~kept & batch.mask
    assert bool((out & (advantages > 0)).any()) and bool((out & (advantages < 0)).any())
    assert float(log_ratio.exp().max()) > 20


def no_penalty() -> Penalty:
    return Penalty(divergence=NoDivergence(), beta=0.0, anchor="reference", scope="credit", placement="loss")


# ---------------------------------------------------------------- dual clip


@pytest.mark.parametrize(("low", "high", "c"), [(0.2, 0.2, 3.0), (0.2, 0.28, 10.0), (0.2, 0.28, 1.28)])
def test_the_dual_clip_is_verls_clip_ratio_c_and_trls_delta(low: float, high: float, c: float) -> None:
    batch, live = rollout(spread=6.0)
    advantages = torch.tensor(REWARDS).double()[:, None].expand_as(live) - 0.5
    gradients = []
    for kind in ("ours", "verl", "trl"):
        leaf = live.clone().requires_grad_()
        log_ratio = leaf - batch.old_logprobs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - low, 1 + high)
        if kind == "ours":
            loss = Clipped(low=low, high=high, dual_clip=c)(log_ratio, advantages)
        elif kind == "verl":
            pessimistic = torch.maximum(-advantages * ratio, -advantages * clipped)
            bounded = torch.minimum(-advantages * c, pessimistic)
            loss = torch.where(advantages < 0, bounded, pessimistic)
        else:
            loss = -torch.minimum(ratio.clamp(max=c) * advantages, clipped * advantages)
        gradients.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
    assert float((live - batch.old_logprobs).exp()[advantages < 0].max()) > c
    for theirs in gradients[1:]:
        torch.testing.assert_close(gradients[0], theirs, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- advantages


def verl_whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Over tokens, with Bessel's correction, 1e-8 inside the root."""
    known = values[mask]
    return (values - known.mean()) / (known.var() + 1e-8).sqrt() * mask


@pytest.mark.parametrize("ours_is", ["verl", "ours"])
def test_reinforce_pp_with_the_group_mean_is_verls_where_it_says_so(ours_is: str) -> None:
    batch, _ = rollout(spread=1.0)
    scores = torch.tensor(REWARDS).double().view(2, 3)
    centred = (scores - scores.mean(dim=1, keepdim=True)).flatten()
    theirs = verl_whitened(centred[:, None].expand(batch.mask.shape), batch.mask)
    name = "reinforce_pp_verl" if ours_is == "verl" else "reinforce_pp"
    algo = part("algo", f"algo={name}")
    ours = signed(algo, batch, no_penalty(), torch.zeros_like(theirs))
    # Right and wrong answers differ in length: over tokens the group-centred rewards do not average to zero.
    assert abs(float(theirs[batch.mask].mean())) < 1e-12 < 0.05 < abs(float(ours_centre(centred, batch)))
    if ours_is == "verl":
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    else:
        # Over completions, not centred anew: another direction, and not only another scale.
        assert float(torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) < 0.99


def ours_centre(centred: Tensor, batch: RolloutBatch) -> Tensor:
    return (centred[:, None] * batch.mask).sum() / batch.mask.sum()


def signed(algo: Any, batch: RolloutBatch, penalty: Penalty, divergence: Tensor) -> Tensor:
    """[B, T] credit as the learner makes it."""
    cost = penalty.beta * completion_cost(divergence, batch.mask, penalty.placement)
    advantages = algo.advantages(batch, batch.rewards - cost)
    weights = batch.mask.double()
    if penalty.in_loss and algo.token_normalisation is None:
        return advantages[:, None] * weights
    return signed_credit(
        advantages, weights, divergence, batch.mask, penalty=penalty, normalisation=algo.token_normalisation
    )


def k1_in(placement: str) -> Penalty:
    return Penalty(divergence=K1(), beta=BETA, anchor="reference", scope="credit", placement=placement)


def test_reinforce_pp_with_the_kl_in_the_reward_is_verls_but_for_one_degree_of_freedom() -> None:
    batch, _ = rollout(spread=1.0)
    kl = masked(batch.old_logprobs - batch.anchor_logprobs, batch.mask)
    token_rewards = -BETA * kl
    for row, length in enumerate(LENGTHS):
        token_rewards[row, length - 1] += REWARDS[row]
    returns = token_rewards.flip(1).cumsum(1).flip(1) * batch.mask
    theirs = verl_whitened(returns, batch.mask)
    algo = part("algo", "algo=reinforce_pp_kl_in_reward")
    ours = signed(algo, batch, k1_in("reward_to_go"), kl)
    tokens = sum(LENGTHS)
    torch.testing.assert_close(ours * ((tokens - 1) / tokens) ** 0.5, theirs, rtol=1e-6, atol=1e-7)
    same = replace(algo, token_normalisation=replace(algo.token_normalisation, ddof=1))
    torch.testing.assert_close(signed(same, batch, k1_in("reward_to_go"), kl), theirs, rtol=1e-6, atol=1e-7)


def test_the_kl_in_a_completions_reward_is_verls_and_trls() -> None:
    # verl: token rewards less beta k1, summed over tokens; TRL's RLOO: reward less beta times the summed k1.
    batch, _ = rollout(spread=1.0)
    kl = masked(batch.old_logprobs - batch.anchor_logprobs, batch.mask)
    rewards = [
        reward - BETA * sum(kl[row, t].item() for t in range(length))
        for row, (reward, length) in enumerate(zip(REWARDS, LENGTHS, strict=True))
    ]
    groups = torch.tensor(rewards).double().view(2, 3)
    loo = groups - (groups.sum(dim=1, keepdim=True) - groups) / 2
    standardised = (groups - groups.mean(dim=1, keepdim=True)) / (groups.std(dim=1, keepdim=True) + 1e-4)
    for name, theirs in (("rloo_kl_in_reward", loo), ("grpo", standardised)):
        ours = signed(part("algo", f"algo={name}"), batch, k1_in("completion"), kl)
        torch.testing.assert_close(ours, theirs.view(-1, 1) * batch.mask)


def test_opo_is_verls_but_for_groups_of_one() -> None:
    batch, _ = rollout(spread=1.0)
    lengths, scores = torch.tensor(LENGTHS).double(), torch.tensor(REWARDS).double()
    theirs = torch.cat(
        [
            scores[rows] - (lengths[rows] * scores[rows]).sum() / lengths[rows].sum()
            for rows in (slice(0, 3), slice(3, 6))
        ]
    )
    opo = part("algo", "algo=opo")
    torch.testing.assert_close(opo.advantages(batch), theirs)
    # verl's baseline of a single completion is 0.
    assert float(opo.advantages(batch.rows(torch.tensor([0])))) == 0.0
