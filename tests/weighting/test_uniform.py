import torch
from completions import completion_of

from mirrorpo.algo.advantage import GroupMean
from mirrorpo.algo.aggregate import SequenceMean
from mirrorpo.algo.ratio import TokenRatio
from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.surrogate import Clipped
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import mean_one
from mirrorpo.divergence.kl import K3
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.rollout.collate import collate
from mirrorpo.train.loss import policy_loss
from mirrorpo.weighting.uniform import Uniform

ALGO = Algorithm(
    advantage=GroupMean(),
    ratio=TokenRatio(),
    surrogate=Clipped(low=0.2, high=0.2),
    aggregate=SequenceMean(),
    rollout_rule=RolloutRule(
        dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
    ),
)


class Unread:
    """A scorer that must not be asked."""

    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        raise AssertionError("uniform weights need no score")

    entropies = with_offsets = cut = importance = logprobs


def batch() -> RolloutBatch:
    draw = torch.Generator().manual_seed(0)
    completions = [completion_of([2] * length, group=group) for group, length in [(0, 2), (0, 3), (1, 3)]]
    rollout = collate(completions, [1.0, 0.0, float("nan")], pad_id=0, mask_truncated=False)
    return rollout.with_(
        old_logprobs=-torch.rand(3, 3, generator=draw), anchor_logprobs=-torch.rand(3, 3, generator=draw)
    )


def test_weights_are_ones_to_the_bit_before_and_after_mean_one():
    rollout = batch()
    weights = Uniform()(rollout, Unread(), 0)
    assert torch.equal(weights, torch.ones(3, 3))
    assert torch.equal(mean_one(weights, rollout.mask), rollout.mask.float())


def test_the_weighted_loss_and_gradient_are_the_unweighted_ones_to_the_bit_in_either_scope():
    rollout = batch()
    advantages = ALGO.advantages(rollout)[:, None].expand(3, 3)
    leaf = rollout.old_logprobs + 0.1 * rollout.anchor_logprobs
    leaf.requires_grad_()
    divergence = K3()
    penalty = divergence(leaf, rollout.anchor_logprobs, rollout.old_logprobs)

    log_ratio = ALGO.ratio(leaf, rollout.old_logprobs, rollout.mask, torch.ones(3, 3))
    unweighted = ALGO.aggregate(ALGO.surrogate(log_ratio, advantages) + 0.3 * penalty, rollout.mask)
    (expected,) = torch.autograd.grad(unweighted, leaf, retain_graph=True)

    policy = PolicyOutputs(logprobs=leaf, entropy=torch.zeros(3, 3), divergence=penalty)
    for scope in ("credit", "loss"):
        weights = mean_one(Uniform()(rollout, Unread(), 0), rollout.mask)
        scoped = Penalty(divergence=divergence, beta=0.3, anchor="reference", scope=scope, placement="loss")
        loss = policy_loss(policy, rollout, advantages, weights, algo=ALGO, penalty=scoped)
        assert torch.equal(loss, unweighted)
        assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], expected)
