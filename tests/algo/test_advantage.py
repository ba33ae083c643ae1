import itertools
import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.advantage import (
    GroupMean,
    GroupMeanBatchStd,
    GroupStandardised,
    LeaveOneOut,
    LengthWeightedMean,
    MeanNormalised,
    NoBaseline,
    QuantileBaseline,
    SignWeighted,
    Unit,
)
from mirrorpo.core.batch import GroupedRewards


def length_weighted(rewards: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Of completions whose length depends on their reward."""
    lengths = 1 + (7 * rewards.detach().nan_to_num(nan=0.0).abs()).long() % 5
    return LengthWeightedMean().estimate(GroupedRewards(rewards=rewards, group=group, lengths=lengths))


CENTRED = [
    GroupMean(),
    GroupStandardised(epsilon=1e-4, ddof=1),
    GroupStandardised(epsilon=0.1, ddof=0),
    LeaveOneOut(),
    GroupMeanBatchStd(epsilon=1e-4, ddof=1),
    MeanNormalised(epsilon=1e-6),
]
WITH_A_BASELINE = [
    *CENTRED,
    QuantileBaseline(quantile=0.4, epsilon=1e-4, ddof=1),
    length_weighted,
]
OF_VERDICTS = [*WITH_A_BASELINE, NoBaseline(), SignWeighted(positive=0.1, negative=1.0, threshold=0.5)]
ESTIMATORS = [*OF_VERDICTS, Unit()]
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


@pytest.mark.parametrize("estimator", CENTRED)
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
        MeanNormalised(epsilon=0.0),
        QuantileBaseline(quantile=0.4, epsilon=0.0, ddof=1),
        length_weighted,
    ],
)
def test_equal_rewards_give_exactly_zero_at_any_group_size(estimator):
    for reward, size in itertools.product((0.0, 1.0, 0.1, 1 / 3, -0.15), range(1, 17)):
        ours = estimator(torch.full((size,), reward), torch.zeros(size, dtype=torch.long))
        assert torch.equal(ours, torch.zeros(size)), (reward, size)


@pytest.mark.parametrize("estimator", OF_VERDICTS)
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


# ---------------------------------------------------------------- against the oracles, and where two coincide


@generated
@given(steps, st.sampled_from([0.0, 1e-6, 0.5]))
def test_mean_normalised_equals_the_oracle(rows, epsilon):
    rewards, group = tensors(rows)
    expected = oracles.mean_normalised_advantages(rewards.tolist(), group.tolist(), epsilon)
    # A mean within rounding of zero decides whether there is one.
    if all(abs(value) < 1e6 for value in expected):
        ours = MeanNormalised(epsilon=epsilon)(rewards, group)
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@generated
@given(steps, st.sampled_from([0.1, 0.4, 0.5, 0.6, 0.9]), st.sampled_from([0, 1]))
def test_quantile_baseline_equals_the_oracle(rows, quantile, ddof):
    rewards, group = tensors(rows)
    expected = oracles.quantile_advantages(rewards.tolist(), group.tolist(), quantile, 1e-4, ddof)
    ours = QuantileBaseline(quantile=quantile, epsilon=1e-4, ddof=ddof)(rewards, group)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@generated
@given(steps, st.lists(st.integers(1, 40), min_size=9, max_size=9))
def test_length_weighted_mean_equals_the_oracle(rows, lengths):
    rewards, group = tensors(rows)
    lengths = lengths[: len(rows)]
    expected = oracles.length_weighted_advantages(rewards.tolist(), group.tolist(), lengths)
    grouped = GroupedRewards(rewards=rewards, group=group, lengths=torch.tensor(lengths))
    ours = LengthWeightedMean().estimate(grouped)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    for name in set(group.tolist()):
        rows_of = group == name
        assert abs(float((ours * grouped.lengths)[rows_of].sum())) < 1e-9


@generated
@given(steps)
def test_sign_weighted_equals_the_oracle(rows):
    rewards, group = tensors(rows)
    expected = oracles.sign_weighted_advantages(rewards.tolist(), group.tolist(), 0.1, 2.0, 0.5)
    ours = SignWeighted(positive=0.1, negative=2.0, threshold=0.5)(rewards, group)
    assert ours.tolist() == expected


def test_at_equal_lengths_the_length_weighted_mean_is_the_group_mean():
    rewards, group = torch.tensor([1.0, 0.0, 0.25, 3.0]), torch.tensor([0, 0, 0, 1])
    grouped = GroupedRewards(rewards=rewards, group=group, lengths=torch.full((4,), 7))
    torch.testing.assert_close(LengthWeightedMean().estimate(grouped), GroupMean()(rewards, group))


def test_completions_that_are_not_trained_do_not_count_in_the_length_weighted_mean():
    rewards, group = torch.tensor([1.0, 0.0, 5.0, 2.0]), torch.tensor([0, 0, 0, 1])
    grouped = GroupedRewards(rewards=rewards, group=group, lengths=torch.tensor([1, 3, 0, 0]))
    torch.testing.assert_close(LengthWeightedMean().estimate(grouped), torch.tensor([0.75, -0.25, 4.75, 0.0]))


def test_maxrl_is_the_group_mean_in_units_of_the_mean_reward_and_nothing_without_a_right_answer():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.5])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    ours = MeanNormalised(epsilon=0.0)(rewards, group)
    torch.testing.assert_close(ours[:4], 4 * GroupMean()(rewards, group)[:4])
    assert not bool(ours[4:].any())


def test_a_quantile_at_a_half_pushes_up_what_is_rare_and_down_what_is_rare():
    estimator, group = QuantileBaseline(quantile=0.5, epsilon=0.0, ddof=0), torch.zeros(4, dtype=torch.long)
    scale = math.sqrt(3) / 4
    hard, even, easy = (
        estimator(torch.tensor([1.0] * right + [0.0] * (4 - right)), group) for right in (1, 2, 3)
    )
    torch.testing.assert_close(hard, torch.tensor([1.0, 0.0, 0.0, 0.0]) / scale)
    torch.testing.assert_close(even, torch.tensor([2.0, 2.0, 0.0, 0.0]))
    torch.testing.assert_close(easy, torch.tensor([0.0, 0.0, 0.0, -1.0]) / scale)


def test_with_equal_sides_sign_weighting_is_reinforce_of_rewards_of_either_sign():
    rewards, group = torch.tensor([1.0, 0.0, NAN]), torch.zeros(3, dtype=torch.long)
    ours = SignWeighted(positive=1.0, negative=1.0, threshold=0.5)(rewards, group)
    assert torch.equal(ours, NoBaseline()(2 * rewards - 1, group))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MeanNormalised(epsilon=-1.0), "epsilon=-1.0"),
        (lambda: QuantileBaseline(quantile=1.0, epsilon=0.0, ddof=1), "quantile=1.0"),
        (lambda: QuantileBaseline(quantile=0.4, epsilon=0.0, ddof=2), "ddof=2"),
        (lambda: SignWeighted(positive=0.0, negative=0.0, threshold=0.5), "positive=0.0, negative=0.0"),
    ],
)
def test_an_impossible_setting_is_named(build, message):
    with pytest.raises(ValueError, match=r"algo\.advantage\..*" + message):
        build()
