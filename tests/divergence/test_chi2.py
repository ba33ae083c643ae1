import torch

from mirrorpo.divergence.chi2 import ChiSquare


def test_near_the_anchor_chi_square_is_twice_the_kl():
    log_q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    log_p = (log_q + 1e-4 * torch.tensor([1.0, -2.0, 0.5])).log_softmax(-1)
    ours = ChiSquare()(log_p, log_q, log_p)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(ours, 2 * kl, rtol=1e-3, atol=0)


def test_mass_where_the_anchor_has_almost_none_costs_its_inverse_and_stays_finite():
    p, q = torch.tensor([0.0, -200.0]).log_softmax(-1), torch.tensor([-200.0, 0.0]).log_softmax(-1)
    ours = ChiSquare()(p, q, p)
    torch.testing.assert_close(ours.log(), torch.tensor(80.0), rtol=1e-4, atol=0)


def test_gradcheck():
    log_p, log_q = (
        torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
        for seed in (1, 2)
    )
    of = ChiSquare()
    assert torch.autograd.gradcheck(lambda x: of(x, log_q, x), log_p.requires_grad_())
