import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.rollout_rule import RolloutRule

NAN = float("nan")

generated = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def rule(**changes) -> RolloutRule:
    off = {
        "dynamic_sampling": False,
        "max_draws": 1,
        "overlong_buffer": 0.0,
        "overlong_penalty": 0.0,
        "mask_truncated": False,
    }
    return RolloutRule(**(off | changes))


@generated
@given(st.integers(1, 100), st.floats(0.05, 1.0), st.floats(0.0, 2.0))
def test_overlong_shaping_equals_the_oracle(length, buffer, penalty):
    ours = rule(overlong_buffer=buffer, overlong_penalty=penalty).shape(
        torch.tensor([0.5]).double(), torch.tensor([float(length)]).double(), 100
    )
    torch.testing.assert_close(
        float(ours), oracles.overlong(0.5, length, 100, buffer, penalty), rtol=1e-9, atol=1e-12
    )


def test_a_completion_that_fills_its_budget_loses_all_of_the_penalty_and_one_before_the_buffer_nothing():
    # Lmax 100, buffer 20: free up to 80 tokens, -1/2 at 90, -1 at 100.
    shaped = rule(overlong_buffer=0.2, overlong_penalty=1.0).shape(
        torch.ones(4), torch.tensor([1.0, 80.0, 90.0, 100.0]), 100
    )
    torch.testing.assert_close(shaped, torch.tensor([1.0, 1.0, 0.5, 0.0]), rtol=1e-6, atol=1e-6)


def test_without_a_buffer_rewards_stay_to_the_bit():
    rewards = torch.tensor([0.1, NAN, 1.0])
    assert rule(overlong_penalty=1.0).shape(rewards, torch.tensor([5.0, 100.0, 100.0]), 100) is rewards


def test_shaping_leaves_a_missing_verdict_missing():
    shaped = rule(overlong_buffer=0.5, overlong_penalty=1.0).shape(
        torch.tensor([NAN]), torch.tensor([100.0]), 100
    )
    assert bool(shaped.isnan())


def test_dynamic_sampling_keeps_the_groups_whose_rewards_differ():
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    group = torch.tensor([8, 3, 8, 3, 5, 5])
    assert rule(dynamic_sampling=True).keeps(rewards, group).tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_without_dynamic_sampling_every_completion_is_kept():
    assert rule().keeps(torch.tensor([1.0, 1.0, NAN]), torch.tensor([0, 0, 1])).tolist() == [True, True, True]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -0.15])
def test_a_group_of_equal_rewards_is_dropped_whatever_the_reward_and_the_group_size(reward):
    for size in range(1, 17):
        keeps = rule(dynamic_sampling=True).keeps(
            torch.full((size,), reward), torch.zeros(size, dtype=torch.long)
        )
        assert not bool(keeps.any()), size


def test_a_missing_verdict_makes_no_difference_between_rewards():
    keeps = rule(dynamic_sampling=True).keeps(
        torch.tensor([1.0, NAN, 1.0, NAN, NAN, 0.0, 1.0, NAN]), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    )
    assert keeps.tolist() == [False, False, False, False, False, True, True, True]


def test_a_tiny_difference_of_rewards_teaches():
    assert bool(rule(dynamic_sampling=True).keeps(torch.tensor([0.1, 0.1000001]), torch.tensor([0, 0])).all())


@pytest.mark.parametrize(
    ("changes", "knob"),
    [
        ({"max_draws": 0}, "max_draws=0"),
        ({"max_draws": 3}, "max_draws=3"),
        ({"overlong_buffer": 1.5}, "overlong_buffer=1.5"),
        ({"overlong_buffer": -0.1}, "overlong_buffer=-0.1"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(changes, knob):
    with pytest.raises(ValueError, match=knob.replace(".", r"\.")):
        rule(**changes)
