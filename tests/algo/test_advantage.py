import itertools
import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.advantage import GroupMean, GroupMeanBatchStd, GroupStandardised, LeaveOneOut, Unit

ESTIMATORS = [
    GroupMean(),
    GroupStandardised(epsilon=1e-4, ddof=1),
    GroupStandardised(epsilon=0.1, ddof=0),
    LeaveOneOut(),
    GroupMeanBatchStd(epsilon=1e-4, ddof=1),
    Unit(),
]
NAN = float("nan")

generated = settings(max_examples=80, deadline=None, derandomize=True, database=None)
verdicts = st.one_of(st.sampled_from([0.0, 1.0, 0.1, NAN]), st.floats(-10, 10))
steps = st.lists(st.tuples(verdicts, st.sampled_from([7, 3, 12])), min_size=1, max_size=9)


def tensors(rows: list[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([reward for reward, _ in rows], dtype=torch.float64), torch.tensor(
        [group for _, group in rows]
    )


@generated
@given(steps)
def test_group_mean_equals_the_oracle(rows):
    rewards, group = tensors(rows)
    expected = oracles.group_mean_advantages(rewards.tolist(), group.tolist())
    torch.testing.assert_close(
        GroupMean()(rewards, group), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@generated
@given(steps, st.sampled_from([1e-4, 0.5]), st.sampled_from([0, 1]))
def test_group_standardised_equals_the_oracle(rows, epsilon, ddof):
    rewards, group = tensors(rows)
    expected = oracles.group_standardised_advantages(rewards.tolist(), group.tolist(), epsilon, ddof)
    ours = GroupStandardised(epsilon=epsilon, ddof=ddof)(rewards, group)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_ddof_1_divides_by_one_less_than_the_group():
    # mean 1/4; deviations 3/4, -1/4, -1/4, -1/4; their squares sum to 12/16; over n - 1 = 3 that is 1/4, std
    # 1/2.
    ours = GroupStandardised(epsilon=0.0, ddof=1)(
        torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    )
    torch.testing.assert_close(ours, torch.tensor([1.5, -0.5, -0.5, -0.5]), rtol=1e-6, atol=0)


def test_ddof_0_divides_by_the_group():
    # squares 12/16 over n = 4 are 3/16, std sqrt(3)/4; 3/4 over that is sqrt(3).
    ours = GroupStandardised(epsilon=0.0, ddof=0)(
        torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    )
    torch.testing.assert_close(ours, torch.tensor([3.0, -1.0, -1.0, -1.0]) / math.sqrt(3), rtol=1e-6, atol=0)


def test_epsilon_is_added_outside_the_root():
    # Rewards 0 and 2: mean 1, std 1 with ddof 0; 1 / (1 + 1) = 1/2, not 1 / sqrt(1 + 1).
    ours = GroupStandardised(epsilon=1.0, ddof=0)(torch.tensor([0.0, 2.0]), torch.tensor([5, 5]))
    torch.testing.assert_close(ours, torch.tensor([-0.5, 0.5]), rtol=1e-6, atol=0)


def test_with_unit_group_std_standardised_is_group_mean():
    rewards, group = torch.tensor([1.0, -1.0, 4.0, 2.0], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    assert torch.equal(GroupStandardised(epsilon=0.0, ddof=0)(rewards, group), GroupMean()(rewards, group))


@pytest.mark.parametrize("estimator", ESTIMATORS[:-1])
def test_advantages_sum_to_zero_over_a_group(estimator):
    rewards = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group = torch.tensor([9, 4, 9, 4, 4, 4, 9, 1, 1, 9, 1, 4])
    ours = estimator(rewards, group)
    for name in (9, 4, 1):
        assert abs(float(ours[group == name].sum())) < 1e-12


@pytest.mark.parametrize(
    "estimator",
    [
        GroupMean(),
        GroupStandardised(epsilon=1e-4, ddof=1),
        GroupStandardised(epsilon=0.0, ddof=0),
        LeaveOneOut(),
        GroupMeanBatchStd(epsilon=0.0, ddof=0),
    ],
)
def test_equal_rewards_give_exactly_zero_at_any_group_size(estimator):
    for reward, size in itertools.product((0.0, 1.0, 0.1, 1 / 3, -0.15), range(1, 17)):
        ours = estimator(torch.full((size,), reward), torch.zeros(size, dtype=torch.long))
        assert torch.equal(ours, torch.zeros(size)), (reward, size)


@pytest.mark.parametrize("estimator", ESTIMATORS[:-1])
def test_a_completion_without_a_verdict_gets_zero_and_is_as_if_absent_for_its_peers(estimator):
    rewards = torch.tensor([1.0, NAN, 0.0, 0.3, NAN], dtype=torch.float64)
    group = torch.tensor([2, 2, 2, 2, 5])
    known = ~rewards.isnan()
    ours = estimator(rewards, group)
    assert torch.equal(ours[~known], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(ours[known], estimator(rewards[known], group[known]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_is_named_not_placed(estimator):
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.25, 1.0, 0.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    torch.testing.assert_close(
        estimator(rewards[order], 40 - group[order]), estimator(rewards, group)[order], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_are_constants(estimator):
    rewards = torch.tensor([0.0, 1.0], requires_grad=True)
    assert not estimator(rewards, torch.tensor([0, 0])).requires_grad


def test_unit_is_one_also_without_a_verdict():
    assert torch.equal(Unit()(torch.tensor([0.0, NAN, 3.0]), torch.tensor([0, 0, 1])), torch.ones(3))


@generated
@given(steps)
def test_leave_one_out_equals_the_oracle(rows):
    rewards, group = tensors(rows)
    expected = oracles.leave_one_out_advantages(rewards.tolist(), group.tolist())
    torch.testing.assert_close(
        LeaveOneOut()(rewards, group), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


@generated
@given(steps, st.sampled_from([1e-4, 0.5]), st.sampled_from([0, 1]))
def test_group_mean_batch_std_equals_the_oracle(rows, epsilon, ddof):
    rewards, group = tensors(rows)
    if bool(rewards.isnan().all()):
        return
    expected = oracles.group_mean_batch_std_advantages(rewards.tolist(), group.tolist(), epsilon, ddof)
    ours = GroupMeanBatchStd(epsilon=epsilon, ddof=ddof)(rewards, group)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_leave_one_out_is_the_group_mean_on_another_scale():
    rewards, group = torch.tensor([1.0, 0.0, 0.0, 0.5]), torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(LeaveOneOut()(rewards, group), GroupMean()(rewards, group) * 4 / 3)


def test_batch_scaling_keeps_a_hard_and_an_easy_prompt_at_their_own_size_and_group_scaling_does_not():
    rewards, group = torch.tensor([1.0, 0.0, 0.1, 0.0]), torch.tensor([0, 0, 1, 1])
    batch, within = (
        estimator(rewards, group)
        for estimator in (GroupMeanBatchStd(epsilon=0.0, ddof=0), GroupStandardised(epsilon=0.0, ddof=0))
    )
    torch.testing.assert_close(batch[0] / batch[2], torch.tensor(10.0))
    torch.testing.assert_close(within[0] / within[2], torch.tensor(1.0))
