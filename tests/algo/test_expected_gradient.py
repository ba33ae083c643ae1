"""The expected gradients that advantages state, by enumeration: groups drawn from a policy over five tokens.

A completion is one token. Its reward is 0 or 1, or any number where a claim is of any rewards.
"""

from collections.abc import Callable
from itertools import combinations, product
from math import comb

import pytest
import torch
from torch import Tensor

from mirrorpo.algo.advantage import (
    GroupMean,
    GroupStandardised,
    LeaveOneOut,
    LengthWeightedMean,
    MeanNormalised,
    NoBaseline,
    QuantileBaseline,
    SignWeighted,
)
from mirrorpo.algo.pass_at_k import PassAtK
from mirrorpo.algo.prompt_baseline import BetaTracker, KalmanTracker, TrackedBaseline
from mirrorpo.core.batch import GroupedRewards, Visit
from mirrorpo.core.protocols import AdvantageEstimator, GroupedAdvantageEstimator

TOKENS, GROUP = 5, 4
RIGHT = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
SCORES = torch.tensor([0.3, -1.0, 2.0, 0.3, 0.9], dtype=torch.float64)


def policy() -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randn(TOKENS, dtype=torch.float64, generator=draw).requires_grad_()


def expected_gradient(estimate: Callable[[Tensor], Tensor], rewards: Tensor, size: int = GROUP) -> Tensor:
    """Of the mean of A_i log pi(y_i) over a group, by the probability of each of the 5^n groups."""
    logits = policy()
    log_p = logits.log_softmax(-1)
    groups = torch.tensor([*product(range(TOKENS), repeat=size)])
    chances = log_p.detach()[groups].sum(dim=1).exp()
    # All groups as one rollout.
    advantages = estimate(rewards[groups]).view(len(groups), size)
    loss = (chances[:, None] * advantages * log_p[groups]).sum() / size
    return torch.autograd.grad(loss, logits)[0]


def estimates(
    estimator: AdvantageEstimator | GroupedAdvantageEstimator, lengths: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    def estimate(rewards: Tensor) -> Tensor:
        group = torch.arange(len(rewards)).repeat_interleave(rewards.shape[1])
        if isinstance(estimator, GroupedAdvantageEstimator):
            counts = torch.full_like(group, 3) if lengths is None else lengths
            return estimator.estimate(GroupedRewards(rewards=rewards.flatten(), group=group, lengths=counts))
        return estimator(rewards.flatten(), group)

    return estimate


def visits(baseline: TrackedBaseline, numbers: list[float]) -> Callable[[Tensor], Tensor]:
    """Advantages of groups that are each of another prompt, of which the same is remembered."""

    def estimate(rewards: Tensor) -> Tensor:
        group = torch.arange(len(rewards)).repeat_interleave(rewards.shape[1])
        rollout = GroupedRewards(rewards=rewards.flatten(), group=group, lengths=torch.ones_like(group))
        uids = [str(number) for number in group.tolist()]
        memory = {uid: numbers for uid in uids if numbers}
        return baseline.track(rollout, Visit(uids=uids, step=9, drift=0.3, memory=memory))[0]

    return estimate


def gradient_of(objective: Callable[[Tensor], Tensor]) -> Tensor:
    logits = policy()
    return torch.autograd.grad(objective(logits.softmax(-1)), logits)[0]


def right_answers(p: Tensor) -> Tensor:
    return (p * RIGHT).sum()


P = float(right_answers(policy().detach().softmax(-1)))


def binomial(count: int, draws: int) -> float:
    return comb(draws, count) * P**count * (1 - P) ** (draws - count)


FAR = 1e9  # of an epsilon: all is divided by the same number

# estimator, a factor on its advantages, w(p) as its docstring states it.
STATED = {
    "no baseline": (NoBaseline(), 1.0, 1.0),
    "group mean": (GroupMean(), 1.0, (GROUP - 1) / GROUP),
    "leave one out": (LeaveOneOut(), 1.0, 1.0),
    "length-weighted, equal lengths": (LengthWeightedMean(), 1.0, (GROUP - 1) / GROUP),
    "MaxRL": (
        MeanNormalised(epsilon=0.0),
        1.0,
        sum((1 - P) ** (k - 1) for k in range(1, GROUP)),
    ),
    "pass@1": (PassAtK(k=1, baseline="loo"), 1.0, 1.0),
    "pass@2": (PassAtK(k=2, baseline="loo_minus_one"), 1.0, 2 * (1 - P)),
    "pass@3": (PassAtK(k=3, baseline="loo"), 1.0, 3 * (1 - P) ** 2),
    "pass@n": (PassAtK(k=GROUP, baseline="loo_minus_one"), 1.0, GROUP * (1 - P) ** (GROUP - 1)),
    "W-REINFORCE": (SignWeighted(positive=0.1, negative=1.0, threshold=0.5), 1.0, 1.1),
    "NSR": (SignWeighted(positive=0.0, negative=1.0, threshold=0.5), 1.0, 1.0),
    "quantile 0.3": (
        QuantileBaseline(quantile=0.3, epsilon=FAR, ddof=1),
        FAR,
        1 - binomial(2, GROUP - 1),  # floor(4 * 0.7)
    ),
    "quantile 0.5": (QuantileBaseline(quantile=0.5, epsilon=FAR, ddof=0), FAR, 1 - binomial(2, GROUP - 1)),
    "quantile 0.8": (QuantileBaseline(quantile=0.8, epsilon=FAR, ddof=0), FAR, 1 - binomial(0, GROUP - 1)),
}


@pytest.mark.parametrize("name", STATED)
def test_of_rewards_0_and_1_the_expected_gradient_is_the_one_that_the_docstring_states(name: str) -> None:
    estimator, factor, weight = STATED[name]
    ours = factor * expected_gradient(estimates(estimator), RIGHT)
    torch.testing.assert_close(ours, weight * gradient_of(right_answers), rtol=1e-7, atol=1e-9)


def test_of_any_advantage_of_a_group_w_is_the_mean_difference_of_a_right_and_a_wrong_answer() -> None:
    for estimator in (
        GroupStandardised(epsilon=1e-4, ddof=1),
        QuantileBaseline(quantile=0.4, epsilon=1e-4, ddof=1),
        PassAtK(k=2, baseline="loo"),
    ):
        weight = 0.0
        for c in range(GROUP):
            others = [1.0] * c + [0.0] * (GROUP - 1 - c)
            right, wrong = (
                float(estimates(estimator)(torch.tensor([[reward, *others]]).double())[0])
                for reward in (1.0, 0.0)
            )
            weight += binomial(c, GROUP - 1) * (right - wrong)
        ours = expected_gradient(estimates(estimator), RIGHT)
        torch.testing.assert_close(ours, weight * gradient_of(right_answers), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("k", "baseline"),
    [(1, "loo"), (2, "loo"), (2, "loo_minus_one"), (3, "loo"), (3, "loo_minus_one"), (4, "loo_minus_one")],
)
def test_pass_at_k_is_unbiased_for_the_best_of_k_of_any_rewards(k: int, baseline: str) -> None:
    def best_of_k(p: Tensor) -> Tensor:
        drawn = torch.tensor([*product(range(TOKENS), repeat=k)])
        return (p[drawn].prod(dim=1) * SCORES[drawn].amax(dim=1)).sum()

    ours = expected_gradient(estimates(PassAtK(k=k, baseline=baseline)), SCORES)
    torch.testing.assert_close(ours, gradient_of(best_of_k), rtol=1e-12, atol=1e-12)


def test_any_rewards_without_a_baseline_or_with_one_of_the_others_are_unbiased() -> None:
    wanted = gradient_of(lambda p: (p * SCORES).sum())
    for estimator in (NoBaseline(), LeaveOneOut()):
        torch.testing.assert_close(expected_gradient(estimates(estimator), SCORES), wanted)
    # The mean of all contains the completion's own.
    ours = expected_gradient(estimates(GroupMean()), SCORES)
    torch.testing.assert_close(ours, wanted * (GROUP - 1) / GROUP)


@pytest.mark.parametrize("size", [1, GROUP])
def test_a_tracked_baseline_is_unbiased_for_any_rewards_whatever_is_remembered_and_in_groups_of_one(
    size: int,
) -> None:
    wanted = gradient_of(lambda p: (p * SCORES).sum())
    trackers = (
        BetaTracker(prior_value=0.5, prior_count=1.0, half_drift=0.06, low=0.875, high=0.96),
        KalmanTracker(prior_value=0.5, prior_variance=0.25, process=0.01, observation=0.25),
    )
    for tracker in trackers:
        for numbers in ([], [0.9, 3.0, 0.0], [-2.0, 0.1, 4.0]):
            baseline = TrackedBaseline(tracker=tracker, batch_std_epsilon=None)
            ours = expected_gradient(visits(baseline, numbers), SCORES, size)
            torch.testing.assert_close(ours, wanted, msg=f"{tracker} {numbers}")


def test_maxrl_climbs_the_log_likelihood_by_more_terms_the_larger_the_group() -> None:
    log_likelihood = gradient_of(lambda p: right_answers(p).log())
    gaps = []
    for size in (2, 3, 4):
        ours = expected_gradient(estimates(MeanNormalised(epsilon=0.0)), RIGHT, size)
        gaps.append(float((log_likelihood - ours).norm() / log_likelihood.norm()))
    assert gaps == pytest.approx([(1 - P) ** (size - 1) for size in (2, 3, 4)])
    # Groups of two climb p itself.
    two = expected_gradient(estimates(MeanNormalised(epsilon=0.0)), RIGHT, 2)
    torch.testing.assert_close(two, gradient_of(right_answers))


def test_maxrls_missing_term_is_the_baseline_of_groups_without_a_right_answer() -> None:
    def paper(rewards: Tensor) -> Tensor:
        ours = estimates(MeanNormalised(epsilon=0.0))(rewards).view_as(rewards)
        return torch.where(rewards.sum(dim=1, keepdim=True) == 0, -1.0, ours).flatten()

    weight = sum((1 - P) ** (k - 1) for k in range(1, GROUP + 1))
    torch.testing.assert_close(expected_gradient(paper, RIGHT), weight * gradient_of(right_answers))


def test_the_length_weighted_baselines_bias_is_its_own_completions_share() -> None:
    # A long completion takes more of its own reward off.
    lengths = torch.tensor([1, 2, 8, 3, 1])
    groups = torch.tensor([*product(range(TOKENS), repeat=GROUP)])
    ours = expected_gradient(estimates(LengthWeightedMean(), lengths[groups].flatten()), SCORES)
    logits = policy()
    log_p = logits.log_softmax(-1)
    chances = log_p.detach()[groups].sum(dim=1).exp()
    share = lengths[groups] / lengths[groups].sum(dim=1, keepdim=True)
    # What a completion's own share takes off is all that has no mean zero.
    taken = (
        chances[:, None] * (share * SCORES[groups]).sum(dim=1, keepdim=True) * log_p[groups]
    ).sum() / GROUP
    wanted = gradient_of(lambda p: (p * SCORES).sum()) - torch.autograd.grad(taken, logits)[0]
    torch.testing.assert_close(ours, wanted)
    assert float((ours - gradient_of(lambda p: (p * SCORES).sum())).norm()) > 0.01


def test_pkpos_equations_are_ours_over_n_but_for_the_scale_of_the_leave_one_out_baseline() -> None:
    rewards, k = [0.3, 2.0, 0.0, -1.0, 0.9], 3
    n, group = len(rewards), torch.zeros(len(rewards), dtype=torch.long)
    numbers = set(range(n))

    def best(of: tuple[int, ...]) -> float:
        return max(rewards[j] for j in of)

    def share(i: int, of: set[int]) -> float:
        """S(i, k, I): the best of each subset of k that holds i, over the number of all subsets of k."""
        return sum(best(chosen) for chosen in combinations(of, k) if i in chosen) / comb(len(of), k)

    loo, minus_one = (
        PassAtK(k=k, baseline=baseline)(torch.tensor(rewards).double(), group).tolist()
        for baseline in ("loo", "loo_minus_one")
    )
    for i in numbers:
        with_i = [chosen for chosen in combinations(numbers, k) if i in chosen]
        rests = [tuple(j for j in chosen if j != i) for chosen in with_i]
        leads = sum(best(chosen) - best(rest) for chosen, rest in zip(with_i, rests, strict=True))
        assert n * leads / comb(n, k) == pytest.approx(minus_one[i])  # Eq. 33
        baseline = sum(share(j, numbers - {i}) for j in numbers - {i}) / (n - 1)
        # Eq. 29 is with `baseline` alone.
        assert n * (share(i, numbers) - baseline * (n - 1) / n) == pytest.approx(loo[i])
