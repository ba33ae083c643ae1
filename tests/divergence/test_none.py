import torch

from mirrorpo.divergence.none import NoDivergence


def test_is_exactly_zero_whatever_it_is_given():
    policy = torch.tensor([[-1.0, -1e4, float("nan")]])
    assert torch.equal(NoDivergence()(policy, policy - 1, policy), torch.zeros(1, 3))


def test_has_no_gradient():
    policy = torch.tensor([-1.0], requires_grad=True)
    assert not NoDivergence()(policy, policy, policy).requires_grad


def test_asks_for_no_anchor_and_costs_nothing():
    assert NoDivergence().reads == "nothing"
