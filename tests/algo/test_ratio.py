import oracles
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.ratio import Likelihood, TokenRatio

NAN, INF = float("nan"), float("inf")

generated = settings(max_examples=60, deadline=None, derandomize=True, database=None)
logprob = st.floats(-1e4, 0.0)
rows = st.lists(st.tuples(logprob, logprob, st.booleans()), min_size=3, max_size=3)


def table(drawn, column, dtype=torch.float64):
    return torch.tensor([[token[column] for token in row] for row in drawn], dtype=dtype)


@generated
@given(st.lists(rows, min_size=1, max_size=4))
def test_token_ratio_is_the_log_of_the_oracles_ratio(drawn):
    live, old, mask = table(drawn, 0), table(drawn, 1), table(drawn, 2, torch.bool)
    ours = TokenRatio()(live, old, mask)
    for i, j in mask.nonzero().tolist():
        if abs(float(ours[i, j])) < 700:
            torch.testing.assert_close(float(ours[i, j].exp()), oracles.token_ratio(float(live[i, j]), float(old[i, j])), rtol=1e-9, atol=0)


@generated
@given(st.lists(rows, min_size=1, max_size=4))
def test_token_ratio_is_finite_and_zero_under_the_mask(drawn):
    live, old, mask = table(drawn, 0, torch.float32), table(drawn, 1, torch.float32), table(drawn, 2, torch.bool)
    ours = TokenRatio()(live, old, mask)
    assert bool(ours.isfinite().all())
    assert not bool(ours[~mask].any())


def test_on_the_first_update_the_ratio_is_exactly_one_and_its_gradient_is_the_logprobs():
    live = torch.tensor([[-1.0, -30.0, -1e4]], dtype=torch.float64, requires_grad=True)
    log_ratio = TokenRatio()(live, live.detach(), torch.ones(1, 3, dtype=torch.bool))
    assert torch.equal(log_ratio.detach(), torch.zeros(1, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_ratio.exp().sum(), live)
    assert torch.equal(gradient, torch.ones(1, 3, dtype=torch.float64))


def test_the_old_policy_gets_no_gradient():
    live, old = (torch.tensor([[value]], requires_grad=True) for value in (-1.0, -2.0))
    TokenRatio()(live, old, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert old.grad is None


def test_what_is_under_the_mask_reaches_neither_value_nor_gradient():
    mask = torch.tensor([[True, False, False]])
    for ratio in (TokenRatio(), Likelihood()):
        live = torch.tensor([[-1.0, NAN, -INF]], requires_grad=True)
        value = ratio(live, torch.tensor([[-2.0, -INF, NAN]]), mask)
        (gradient,) = torch.autograd.grad(value.sum(), live)
        assert bool(value.isfinite().all())
        assert torch.equal(gradient, torch.tensor([[1.0, 0.0, 0.0]]))


def test_likelihood_is_the_logprob_and_reads_no_old_policy():
    live = torch.tensor([[-1.5, -1e4]])
    assert torch.equal(Likelihood()(live, torch.full((1, 2), NAN), torch.ones(1, 2, dtype=torch.bool)), live)
