import oracles
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.algo.ratio import GeometricMean, Likelihood, SequenceRatio, TokenRatio

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
    ours = TokenRatio()(live, old, mask, torch.ones(live.shape))
    for i, j in mask.nonzero().tolist():
        if abs(float(ours[i, j])) < 700:
            torch.testing.assert_close(
                float(ours[i, j].exp()),
                oracles.token_ratio(float(live[i, j]), float(old[i, j])),
                rtol=1e-9,
                atol=0,
            )


@generated
@given(st.lists(rows, min_size=1, max_size=4))
def test_token_ratio_is_finite_and_zero_under_the_mask(drawn):
    live, old, mask = (
        table(drawn, 0, torch.float32),
        table(drawn, 1, torch.float32),
        table(drawn, 2, torch.bool),
    )
    ours = TokenRatio()(live, old, mask, torch.ones(live.shape))
    assert bool(ours.isfinite().all())
    assert not bool(ours[~mask].any())


def test_on_the_first_update_the_ratio_is_exactly_one_and_its_gradient_is_the_logprobs():
    live = torch.tensor([[-1.0, -30.0, -1e4]], dtype=torch.float64, requires_grad=True)
    log_ratio = TokenRatio()(live, live.detach(), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3))
    assert torch.equal(log_ratio.detach(), torch.zeros(1, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_ratio.exp().sum(), live)
    assert torch.equal(gradient, torch.ones(1, 3, dtype=torch.float64))


def test_the_old_policy_gets_no_gradient():
    live, old = (torch.tensor([[value]], requires_grad=True) for value in (-1.0, -2.0))
    TokenRatio()(live, old, torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)).sum().backward()
    assert old.grad is None


def test_what_is_under_the_mask_reaches_neither_value_nor_gradient():
    mask = torch.tensor([[True, False, False]])
    for ratio in (TokenRatio(), SequenceRatio(), GeometricMean(low=0.4, high=0.4), Likelihood()):
        live = torch.tensor([[-1.0, NAN, -INF]], requires_grad=True)
        value = ratio(live, torch.tensor([[-1.2, -INF, NAN]]), mask, torch.ones(mask.shape))
        (gradient,) = torch.autograd.grad(value.sum(), live)
        assert bool(value.isfinite().all())
        assert torch.equal(gradient, torch.tensor([[1.0, 0.0, 0.0]]))


def test_likelihood_is_the_logprob_and_reads_no_old_policy():
    live = torch.tensor([[-1.5, -1e4]])
    assert torch.equal(
        Likelihood()(live, torch.full((1, 2), NAN), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2)),
        live,
    )


def sequence(live, old, mask, advantage, ratio):
    return ratio(
        torch.tensor([live]), torch.tensor([old]), torch.tensor([mask]), torch.full((1, len(mask)), advantage)
    )


def test_a_sequence_ratio_is_the_geometric_mean_of_the_token_ratios_of_the_trained_tokens():
    ours = sequence([-1.0, -2.0, -9.0], [-2.0, -2.5, -1.0], [True, True, False], 1.0, SequenceRatio())
    torch.testing.assert_close(ours, torch.tensor([[0.75, 0.75, 0.0]]))


def test_one_token_makes_a_sequence_ratio_a_token_ratio():
    live, old, mask = (
        torch.tensor([[-1.0], [-3.0]]),
        torch.tensor([[-2.0], [-1.0]]),
        torch.ones(2, 1, dtype=torch.bool),
    )
    assert torch.equal(
        SequenceRatio()(live, old, mask, torch.ones(2, 1)), TokenRatio()(live, old, mask, torch.ones(2, 1))
    )


def test_the_mean_over_tokens_of_a_sequence_ratio_has_the_gradient_of_the_sequences_own_ratio():
    live = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.tensor([[-1.5, -1.0, -0.7]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    (ours,) = torch.autograd.grad(SequenceRatio()(live, old, mask, torch.ones(mask.shape)).exp().mean(), live)
    (of_sequence,) = torch.autograd.grad((live - old).mean().exp(), live)
    torch.testing.assert_close(ours, of_sequence)


def test_a_geometric_mean_is_cut_only_on_the_side_the_advantage_pushes_to_and_a_cut_token_has_no_gradient():
    cut = GeometricMean(low=0.4, high=0.4)
    for advantage, mean, gradient in [
        (1.0, (0.4 - 1.0) / 2, [0.0, 1.0]),
        (-1.0, (1.0 - 0.4) / 2, [1.0, 0.0]),
        (0.0, 0.0, [1.0, 1.0]),
    ]:
        live = torch.tensor([[-1.0, -3.0]], requires_grad=True)
        ours = cut(
            live,
            torch.tensor([[-2.0, -2.0]]),
            torch.ones(1, 2, dtype=torch.bool),
            torch.full((1, 2), advantage),
        )
        torch.testing.assert_close(ours.detach(), torch.full((1, 2), mean))
        assert torch.autograd.grad(ours.sum(), live)[0].tolist() == [gradient]
