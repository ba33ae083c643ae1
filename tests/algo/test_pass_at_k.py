import itertools

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.advantage import LeaveOneOut
from mirrorpo.algo.pass_at_k import PassAtK

NAN = float("nan")
KINDS = [(1, "loo"), (2, "loo"), (2, "loo_minus_one"), (3, "loo"), (3, "loo_minus_one"), (5, "loo_minus_one")]
verdicts = st.one_of(st.sampled_from([0.0, 1.0, NAN]), st.floats(-10, 10))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(verdicts, st.sampled_from([7, 3])), min_size=1, max_size=10), st.sampled_from(KINDS)
)
def test_it_equals_every_subset_one_by_one(rows, kind):
    k, baseline = kind
    rewards = torch.tensor([reward for reward, _ in rows], dtype=torch.float64)
    group = torch.tensor([group for _, group in rows])
    expected = oracles.pass_at_k_advantages(rewards.tolist(), group.tolist(), k, baseline)
    ours = PassAtK(k=k, baseline=baseline)(rewards, group)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_pass_at_1_is_leave_one_out():
    rewards, group = torch.tensor([1.0, 0.0, 0.25, NAN, 3.0]), torch.tensor([0, 0, 0, 0, 1])
    torch.testing.assert_close(PassAtK(k=1, baseline="loo")(rewards, group), LeaveOneOut()(rewards, group))


def test_with_k_of_the_group_only_the_best_has_an_advantage_n_times_its_lead():
    # Up to the factor n that is verl's `grpo_passk` without its division by the std.
    rewards, group = torch.tensor([0.25, 1.0, 0.75, 0.0]), torch.zeros(4, dtype=torch.long)
    ours = PassAtK(k=4, baseline="loo_minus_one")(rewards, group)
    assert torch.equal(ours, 4 * torch.tensor([0.0, 0.25, 0.0, 0.0]))


def test_equal_rewards_give_exactly_zero():
    for (k, baseline), reward, size in itertools.product(KINDS, (0.1, 1 / 3, -0.15), range(1, 9)):
        ours = PassAtK(k=k, baseline=baseline)(
            torch.full((size,), reward), torch.zeros(size, dtype=torch.long)
        )
        assert torch.equal(ours, torch.zeros(size)), (k, baseline, reward, size)


def test_a_group_is_named_not_placed_and_advantages_are_constants():
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.25, 1.0, 0.0], requires_grad=True)
    group, order = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([3, 0, 4, 1, 5, 2])
    estimator = PassAtK(k=2, baseline="loo_minus_one")
    ours = estimator(rewards, group)
    assert not ours.requires_grad
    torch.testing.assert_close(estimator(rewards[order], 40 - group[order]), ours[order])


@pytest.mark.parametrize(("k", "baseline"), [(0, "loo"), (1, "loo_minus_one")])
def test_an_impossible_setting_is_named(k, baseline):
    with pytest.raises(ValueError, match=r"^algo\.advantage\."):
        PassAtK(k=k, baseline=baseline)
