import oracles
import pytest
import torch
from completions import completion_of

from mirrorpo.algo.advantage import GroupMean, GroupStandardised
from mirrorpo.algo.aggregate import FixedLength, SequenceMean, TokenMean
from mirrorpo.algo.ratio import TokenRatio
from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.surrogate import Clipped
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import mean_one
from mirrorpo.divergence.kl import K2
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.rollout.collate import collate
from mirrorpo.train.loss import policy_loss

NAN, INF = float("nan"), float("inf")
LONGEST = 5
BETA = 0.3


def algorithm(advantage, high, aggregate) -> Algorithm:
    plain = RolloutRule(
        dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
    )
    return Algorithm(
        advantage=advantage,
        ratio=TokenRatio(),
        surrogate=Clipped(low=0.2, high=high),
        aggregate=aggregate,
        rollout_rule=plain,
    )


ALGORITHMS = {
    "grpo": algorithm(GroupStandardised(epsilon=1e-4, ddof=1), 0.2, SequenceMean()),
    "dr_grpo": algorithm(GroupMean(), 0.2, FixedLength(length=LONGEST)),
    "dapo": algorithm(GroupStandardised(epsilon=1e-4, ddof=1), 0.28, TokenMean()),
}


def draw(seed: int) -> tuple[RolloutBatch, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ragged batch with a token masked inside and a completion without a verdict; live log-probabilities,
    divergences, weights.
    """
    generator = torch.Generator().manual_seed(seed)
    completions = [
        completion_of([2] * length, group=group) for group, length in [(4, 5), (1, 2), (4, 1), (1, 4), (1, 3)]
    ]
    batch = collate(completions, [1.0, 0.0, 0.25, 1.0, NAN], pad_id=0, mask_truncated=False)
    mask = batch.mask.clone()
    mask[3, 1] = False
    shape = batch.mask.shape
    old, divergences, weights = (
        torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(3)
    )
    live = -3 * old + 0.4 * torch.randn(shape, dtype=torch.float64, generator=generator)
    batch = batch.with_(mask=mask, rewards=batch.rewards.double(), old_logprobs=-3 * old)
    return batch, live, divergences, mean_one(weights, mask)


def our_loss(name, scope, batch, live, divergences, weights, denominator=None):
    algo = ALGORITHMS[name]
    policy = PolicyOutputs(logprobs=live, entropy=torch.zeros_like(live), divergence=divergences)
    advantages = algo.advantages(batch)
    return policy_loss(
        policy,
        batch,
        advantages[:, None].expand_as(live),
        weights,
        algo=algo,
        penalty=Penalty(divergence=K2(), beta=BETA, anchor="reference", scope=scope, placement="loss"),
        denominator=denominator,
    )


@pytest.mark.parametrize("scope", ["credit", "loss"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_value_and_gradient_equal_the_oracle(name, scope):
    for seed in range(5):
        batch, live, divergences, weights = draw(seed)
        leaves = [live.clone().requires_grad_(), divergences.clone().requires_grad_()]
        ours = our_loss(name, scope, batch, *leaves, weights)
        naive = [[[value for value in row] for row in leaf] for leaf in leaves]
        expected = oracles.loss(
            name,
            logprobs=naive[0],
            old_logprobs=batch.old_logprobs.tolist(),
            divergences=naive[1],
            mask=batch.mask.tolist(),
            rewards=batch.rewards.tolist(),
            groups=batch.group.tolist(),
            weights=weights.tolist(),
            beta=BETA,
            scope=scope,
            longest=LONGEST,
        )
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
        for mine, its in zip(
            torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_scope_credit_leaves_the_divergence_unweighted(name):
    batch, live, divergences, weights = draw(0)
    leaf = divergences.requires_grad_()
    by_scope = {}
    for scope, weight in [("credit", weights), ("credit", torch.ones_like(weights)), ("loss", weights)]:
        (gradient,) = torch.autograd.grad(our_loss(name, scope, batch, live, leaf, weight), leaf)
        by_scope.setdefault(scope, []).append(gradient)
    assert torch.equal(*by_scope["credit"])
    torch.testing.assert_close(by_scope["loss"][0], weights * by_scope["credit"][0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scope", ["credit", "loss"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_micro_batches_with_the_windows_denominator_add_up(name, scope):
    batch, live, divergences, weights = draw(1)
    advantages = ALGORITHMS[name].advantages(batch)
    whole = our_loss(name, scope, batch, live, divergences, weights)
    total = torch.zeros((), dtype=torch.float64)
    for rows in (torch.tensor([0, 4]), torch.tensor([1]), torch.tensor([3, 2])):
        micro, policy = (
            batch.rows(rows),
            [
                values[rows][:, : int(batch.present[rows].sum(dim=1).max())]
                for values in (live, divergences, weights)
            ],
        )
        outputs = PolicyOutputs(logprobs=policy[0], entropy=torch.zeros_like(policy[0]), divergence=policy[1])
        total += policy_loss(
            outputs,
            micro,
            advantages[rows][:, None].expand_as(policy[0]),
            policy[2],
            algo=ALGORITHMS[name],
            penalty=Penalty(divergence=K2(), beta=BETA, anchor="reference", scope=scope, placement="loss"),
            denominator=ALGORITHMS[name].aggregate.denominator(batch.mask),
        )
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)


def test_the_gradient_goes_through_the_policy_only():
    batch, live, divergences, weights = draw(0)
    old, anchor = (torch.zeros_like(live).requires_grad_() for _ in range(2))
    our_loss(
        "grpo",
        "credit",
        batch.with_(old_logprobs=old, anchor_logprobs=anchor),
        live.requires_grad_(),
        divergences,
        weights,
    ).backward()
    assert live.grad is not None
    assert old.grad is None
    assert anchor.grad is None


@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
@pytest.mark.parametrize("scope", ["credit", "loss"])
def test_what_is_under_the_mask_changes_neither_value_nor_gradient(scope, garbage):
    results = []
    for fill in (0.0, garbage):
        batch, *values = draw(0)
        live, divergences = (value.masked_fill(~batch.mask, fill).requires_grad_() for value in values[:2])
        dirty = batch.with_(old_logprobs=batch.old_logprobs.masked_fill(~batch.mask, fill))
        loss = our_loss("grpo", scope, dirty, live, divergences, values[2])
        results.append((loss.detach(), *torch.autograd.grad(loss, [live, divergences])))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


def test_a_batch_without_a_trained_token_has_loss_zero_and_a_connected_gradient_of_zero():
    batch, live, divergences, weights = draw(0)
    loss = our_loss(
        "grpo",
        "credit",
        batch.with_(mask=torch.zeros_like(batch.mask)),
        live.requires_grad_(),
        divergences,
        weights,
    )
    assert float(loss.detach()) == 0
    assert torch.equal(torch.autograd.grad(loss, live)[0], torch.zeros_like(live))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradcheck(name):
    batch, live, divergences, weights = draw(2)
    assert torch.autograd.gradcheck(
        lambda x, d: our_loss(name, "loss", batch, x, d, weights),
        (live.requires_grad_(), divergences.requires_grad_()),
    )
