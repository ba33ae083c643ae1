"""Where a penalty acts, by enumeration: a tabular policy of three steps over five tokens, 125 completions.

The objective is beta E_pi[ sum_t D_t ]. Its gradient has two parts: that of each state's own divergence, and
that of how often the state is visited.
"""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from completions import completion_of
from expectation import Expectation
from rows import names, settings_of
from torch import Tensor

from mirrorpo.algo.advantage import NoBaseline
from mirrorpo.algo.ratio import TokenRatio
from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.surrogate import Unclipped
from mirrorpo.algo.token_normalisation import Whitened
from mirrorpo.core.batch import PolicyOutputs
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.placement import completion_cost
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_penalty
from mirrorpo.train.credit import signed_credit
from mirrorpo.train.loss import policy_loss

V, T, BETA = 5, 3, 0.7
COMPLETIONS = [*product(range(V), repeat=T)]
IDS = torch.tensor(COMPLETIONS)
# The state of each token: the number of the prefix before it.
STATES = torch.tensor([[0, 1 + a, 1 + V + V * a + b] for a, b, _ in COMPLETIONS])
ONES = torch.ones(len(COMPLETIONS), T, dtype=torch.float64)


@cache
def penalty_of(name: str) -> Penalty:
    """That of a file of conf/divergence; `kl_topk:2` sums two tokens."""
    name, _, k = name.partition(":")
    return build_penalty({**settings_of(name), **({"k": int(k)} if k else {})})


def tables(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of the policy, with gradient, and the anchor's log-probabilities, of all 31 states."""
    draw = torch.Generator().manual_seed(seed)
    policy, anchor = (torch.randn(1 + V + V * V, V, dtype=torch.float64, generator=draw) for _ in range(2))
    return policy.requires_grad_(), anchor.log_softmax(-1)


def at_tokens(table: Tensor) -> Tensor:
    return table[STATES].gather(-1, IDS[..., None]).squeeze(-1)


def measured(penalty: Penalty, log_p: Tensor, log_q: Tensor) -> Tensor:
    """D of every token of every completion, with gradient; the old policy is the live one."""
    if penalty.reads == "vocabulary":
        return penalty(log_p, log_q, log_p.new_zeros(()))[STATES]
    if penalty.reads == "top":
        return at_tokens(penalty(log_p, log_q, log_p.detach()))
    return penalty(at_tokens(log_p), at_tokens(log_q), at_tokens(log_p).detach())


def objective(penalty: Penalty, log_p: Tensor, log_q: Tensor) -> Tensor:
    """beta E[ sum_t D_t ], with gradient through the policy everywhere."""
    chance = at_tokens(log_p).sum(dim=1).exp()
    return penalty.beta * (chance * measured(penalty, log_p, log_q).sum(dim=1)).sum()


def own_states(penalty: Penalty, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The same without the gradient through how often a state is visited."""
    chance = at_tokens(log_p).sum(dim=1).exp().detach()
    return penalty.beta * (chance * measured(penalty, log_p, log_q).sum(dim=1)).sum()


def expected_gradient(name: str, placement: str) -> Tensor:
    """Of the loss that is trained on, over all completions by their probability; rewards are zero."""
    logits, log_q = tables()
    log_p = logits.log_softmax(-1)
    penalty = penalty_at(name, placement)
    batch = collate(
        [completion_of(list(ids)) for ids in COMPLETIONS], [0.0] * len(IDS), pad_id=0, mask_truncated=False
    )
    divergence, live = measured(penalty, log_p, log_q), at_tokens(log_p)
    batch = batch.with_(old_logprobs=live.detach())
    chance = live.detach().sum(dim=1).exp()
    advantages = -penalty.beta * completion_cost(divergence, batch.mask, penalty.placement)
    credit = signed_credit(advantages, ONES, divergence, batch.mask, penalty=penalty)
    outputs = PolicyOutputs(logprobs=live, entropy=torch.zeros_like(live), divergence=divergence)
    loss = policy_loss(
        outputs,
        batch,
        credit,
        ONES,
        algo=algorithm(chance),
        penalty=penalty,
    )
    return torch.autograd.grad(loss, logits)[0]


@cache
def penalty_at(name: str, placement: str = "loss") -> Penalty:
    return replace(penalty_of(name), beta=BETA, placement=placement)


def algorithm(chance: Tensor) -> Algorithm:
    plain = RolloutRule(
        dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
    )
    return Algorithm(
        advantage=NoBaseline(),
        ratio=TokenRatio(),
        surrogate=Unclipped(),
        aggregate=Expectation(chance),
        rollout_rule=plain,
    )


def gradient(of, name: str) -> Tensor:
    logits, log_q = tables()
    return torch.autograd.grad(of(penalty_at(name), logits.log_softmax(-1), log_q), logits)[0]


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert float(theirs.abs().max()) > 1e-6
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


ALL = [name for name in names("divergence") if name != "none"]
EXACT = [name for name in ALL if penalty_of(name).reads == "vocabulary"]
CORRECTED = [name for name in ALL if name.endswith("_corrected")]


@pytest.mark.parametrize("placement", ["reward_to_go", "completion"])
def test_k1_in_the_reward_to_go_has_the_gradient_of_the_expected_kl(placement):
    assert_equal(expected_gradient("kl_k1", placement), gradient(objective, "kl_exact"))


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_divergence_in_loss_to_go_has_the_gradient_of_its_expected_sum(name):
    assert_equal(expected_gradient(name, "loss_to_go"), gradient(objective, name))


@pytest.mark.parametrize("name", CORRECTED)
def test_a_corrected_divergence_in_loss_to_go_has_the_gradient_of_its_exact_kins_sum(name):
    exact = name.replace("_corrected", "_exact")
    assert_equal(expected_gradient(name, "loss_to_go"), gradient(objective, exact))


def test_the_loss_alone_has_the_gradient_of_each_states_own_divergence_and_drops_the_visits():
    for name in EXACT:
        assert_equal(expected_gradient(name, "loss"), gradient(own_states, name))
        dropped = gradient(objective, name) - gradient(own_states, name)
        assert_equal(expected_gradient(name, "reward_to_go"), dropped)


def test_k1_at_its_own_token_has_the_gradient_of_each_states_own_kl_as_k2_in_the_loss():
    assert_equal(expected_gradient("kl_k1", "reward"), gradient(own_states, "kl_exact"))
    assert_equal(expected_gradient("kl_k2", "loss"), gradient(own_states, "kl_exact"))


def test_what_reads_the_vocabulary_at_its_own_token_is_noise_alone():
    for name in EXACT:
        assert float(expected_gradient(name, "reward").abs().max()) < 1e-15


@pytest.mark.parametrize("name", ["kl_topk", "probl2_topk", "js_topk"])
def test_a_sum_over_the_likeliest_tokens_is_noise_at_its_own_token_and_what_is_outside_it_is_held(name):
    exact = name.replace("_topk", "_exact")
    assert float(expected_gradient(f"{name}:{V}", "reward").abs().max()) < 1e-15
    penalty = penalty_at(f"{name}:2")
    logits, log_q = tables()
    log_p = logits.log_softmax(-1)
    summed = torch.zeros_like(log_p).scatter(-1, log_q.topk(2).indices, 1.0) > 0
    old = log_p.detach()
    outside = penalty.divergence.outside(old, log_q, old).masked_fill(summed, 0.0)
    live = at_tokens(log_p)
    held = BETA * (live.detach().sum(dim=1).exp()[:, None] * live * at_tokens(outside)).sum()
    assert_equal(expected_gradient(f"{name}:2", "reward"), torch.autograd.grad(held, logits)[0])
    # The cure.
    assert_equal(expected_gradient(f"{name}:2", "loss_to_go"), gradient(objective, exact))


@pytest.mark.parametrize("placement", ["reward", "reward_to_go"])
def test_any_sampled_divergence_has_the_score_functions_gradient(placement):
    # d is a constant that is multiplied with the score of its own token, or of all before it too.
    for name in ALL:
        if penalty_of(name).reads == "sampled":
            logits, log_q = tables()
            log_p = logits.log_softmax(-1)
            constant = measured(penalty_at(name), log_p, log_q).detach()
            live, expected = at_tokens(log_p), torch.zeros((), dtype=torch.float64)
            chance = live.detach().sum(dim=1).exp()
            for t in range(T):
                last = t + 1 if placement == "reward" else T
                expected = expected + BETA * (chance * live[:, t] * constant[:, t:last].sum(dim=1)).sum()
            assert_equal(expected_gradient(name, placement), torch.autograd.grad(expected, logits)[0])


def ragged() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    mask = torch.tensor([[True, True, False, True], [True, True, False, False], [False] * 4])
    weights, divergence = (torch.rand(mask.shape, dtype=torch.float64, generator=draw) for _ in range(2))
    return mask, weights, torch.where(mask, divergence, float("nan"))


def test_nan_outside_the_mask_reaches_no_credit():
    mask, weights, divergence = ragged()
    advantages = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    for placement in ("reward", "reward_to_go", "loss_to_go", "completion"):
        for scope in ("credit", "loss"):
            penalty = replace(penalty_at("kl_k1", placement), scope=scope)
            credit = signed_credit(
                advantages, weights, divergence, mask, penalty=penalty, normalisation=Whitened(epsilon=0.0)
            )
            assert bool(credit.isfinite().all()) and not bool(credit[~mask].any())
        assert bool(completion_cost(divergence, mask, placement).isfinite().all())


@pytest.mark.parametrize("scope", ["credit", "loss"])
def test_credit_is_the_naive_one_with_weights_and_whitening(scope):
    mask, weights, divergence = ragged()
    advantages = [1.0, -2.0, 0.0]
    penalty = replace(penalty_at("kl_k1", "reward_to_go"), scope=scope)
    ours = signed_credit(
        torch.tensor(advantages, dtype=torch.float64),
        weights,
        divergence,
        mask,
        penalty=penalty,
        normalisation=Whitened(epsilon=0.5),
    )
    trained = [(i, t) for i in range(3) for t in range(4) if mask[i, t]]
    taken = {
        (i, t): BETA * sum(float(divergence[i, s]) for s in range(t, 4) if mask[i, s]) for i, t in trained
    }
    plain = [advantages[i] - taken[i, t] for i, t in trained]
    centre = sum(plain) / len(plain)
    scale = (sum((value - centre) ** 2 for value in plain) / len(plain)) ** 0.5 + 0.5
    for i, t in trained:
        weight = float(weights[i, t])
        if scope == "credit":
            expected = (weight * (advantages[i] - centre) - taken[i, t]) / scale
        else:
            expected = weight * (advantages[i] - centre - taken[i, t]) / scale
        assert float(ours[i, t]) == pytest.approx(expected, rel=1e-12)
