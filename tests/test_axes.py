"""The suite that every file of conf/algo, conf/divergence and conf/weighting joins by existing.

What a divergence's docstring states of its expected value and gradient is written down once for its
class, in `STATED`; a new class adds its line there. Whatever a new file has to enter elsewhere is named
by one test, `test_every_row_stands_in_every_table`; the other suites leave the file out until it has.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import oracles
import pytest
import torch
import worked
from completions import completion_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rows import CONF, class_of, names, settings_of
from rows import weightings as weights_of
from torch import Tensor

from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import OF_ANCHOR, PolicyOutputs, RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.masked import masked, mean_one
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.potentials import HasPotential
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_penalty, build_weighting
from mirrorpo.train.loss import policy_loss
from mirrorpo.weighting.entropy import TopEntropy
from mirrorpo.weighting.unscored import Unscored

DOCS = CONF.parent / "docs"
LONGEST = 12
NAN, INF = float("nan"), float("inf")
NO_PENALTY = Penalty(
    divergence=NoDivergence(), beta=0.0, anchor="reference", scope="credit", placement="loss"
)


@cache
def choice(axis: str, name: str) -> Any:
    if axis == "divergence":
        return build_penalty(settings_of(name)).divergence
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"{axis}={name}", f"max_new_tokens={LONGEST}"])
        node = resolved(cfg)[axis]
    return build_weighting(node) if axis == "weighting" else instantiate(node, _convert_="all")


def test_every_axis_has_files():
    assert all(names(axis) for axis in ("algo", "divergence", "weighting"))


# ---------------------------------------------------------------- divergences: a policy over five tokens,
# enumerated

divergences = pytest.mark.parametrize("name", names("divergence"))


def five_tokens(seed: int) -> tuple[Tensor, Tensor]:
    """The policy's logits and the anchor's log-probabilities."""
    draw = torch.Generator().manual_seed(seed)
    logits, anchor = (1.5 * torch.randn(5, dtype=torch.float64, generator=draw) for _ in range(2))
    return logits, anchor.log_softmax(-1)


def at_every_token(divergence: Any, log_p: Tensor, log_q: Tensor) -> Tensor:
    """One number for each token that may be sampled; one in all when the divergence reads the vocabulary."""
    return divergence(log_p, log_q, log_p.detach())


def expected(divergence: Any, log_p: Tensor, log_q: Tensor) -> Tensor:
    """On-policy expectation over the sampled token; its gradient is the expected pathwise gradient."""
    values = at_every_token(divergence, log_p, log_q)
    return values if divergence.reads == "vocabulary" else (log_p.detach().exp() * values).sum()


def exact_bregman(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    phi = divergence.potential
    total = torch.stack(
        [oracles.bregman(phi.f, phi.df, p, q) for p, q in zip(log_p.exp(), log_q.exp(), strict=True)]
    ).sum()
    return total, total


def bregman_in_its_direction(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    return (
        exact_bregman(divergence, log_p, log_q)
        if divergence.direction == "reverse"
        else exact_bregman(divergence, log_q, log_p)
    )


def chi_square(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    total = sum((p - q) ** 2 / q for p, q in zip(log_p.exp(), log_q.exp(), strict=True))
    return total, total


def sampled_bregman(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    phi, p, q = divergence.potential, log_p.exp(), log_q.exp()
    value = torch.stack(
        [p_v * oracles.bregman(phi.f, phi.df, p_v, q_v) for p_v, q_v in zip(p, q, strict=True)]
    ).sum()
    return value, ((p * (phi.df(p) - phi.df(q))).detach() * p).sum()


def f_terms(divergence: Any, log_p: Tensor, log_q: Tensor) -> list[Tensor]:
    term = oracles.F_DIVERGENCES[GENERATORS[type(divergence.generator).__name__]]
    first, second = (log_p, log_q) if divergence.direction == "reverse" else (log_q, log_p)
    return [term(a, b) for a, b in zip(first.exp(), second.exp(), strict=True)]


def f_divergence(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.stack(f_terms(divergence, log_p, log_q)).sum()
    return total, total


def sampled_f_divergence(divergence: Any, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    terms = torch.stack(f_terms(divergence, log_p, log_q))
    # sum_v (d'_v - d_v / p_v) grad p_v.
    return terms.sum(), terms.sum() - (terms.detach() * log_p).sum()


GENERATORS = {
    "JensenShannon": "js",
    "Alpha": "alpha",
    "SquaredHellinger": "hellinger",
    "TotalVariation": "tv",
}

# class -> (expected value, a function whose gradient is the expected gradient), as the docstring states them
STATED = {
    "NoDivergence": lambda divergence, log_p, log_q: (0 * log_p.sum(), 0 * log_p.sum()),
    "K1": lambda divergence, log_p, log_q: (oracles.reverse_kl(log_p, log_q), 0 * log_p.sum()),
    "K2": lambda divergence, log_p, log_q: (
        (log_p.exp() * (log_p - log_q) ** 2).sum() / 2,
        oracles.reverse_kl(log_p, log_q),
    ),
    "K3": lambda divergence, log_p, log_q: (
        oracles.reverse_kl(log_p, log_q),
        oracles.forward_kl(log_p, log_q),
    ),
    "LogGap": lambda divergence, log_p, log_q: (
        (log_p.exp() * (log_p - log_q) ** 2).sum(),
        2 * oracles.reverse_kl(log_p, log_q),
    ),
    "ExactBregman": bregman_in_its_direction,
    "CorrectedBregman": exact_bregman,
    "ChiSquare": chi_square,
    "SampledBregman": sampled_bregman,
    "TopBregman": bregman_in_its_direction,
    "ExactFDivergence": f_divergence,
    "CorrectedFDivergence": f_divergence,
    "TopFDivergence": f_divergence,
    "SampledFDivergence": sampled_f_divergence,
    "Renyi": lambda divergence, log_p, log_q: (oracles.renyi(log_p, log_q, divergence.alpha),) * 2,
}
SINGLE_TERMS_MAY_BE_NEGATIVE = {"K1"}


stated = {name for name in names("divergence") if class_of(name) in STATED}


@pytest.mark.parametrize("name", sorted(stated))
def test_a_divergence_has_the_expected_value_and_gradient_that_its_docstring_states(name):
    divergence = choice("divergence", name)
    kind = type(divergence).__name__
    for seed in range(5):
        logits, log_q = five_tokens(seed)
        logits.requires_grad_()
        ours = expected(divergence, logits.log_softmax(-1), log_q)
        value, slope = STATED[kind](divergence, logits.log_softmax(-1), log_q)
        torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-12)
        (stated,) = torch.autograd.grad(slope, logits)
        (gradient,) = torch.autograd.grad(ours, logits) if ours.requires_grad else (torch.zeros_like(logits),)
        torch.testing.assert_close(gradient, stated, rtol=1e-9, atol=1e-12)


@divergences
def test_a_divergence_is_not_negative(name):
    divergence = choice("divergence", name)
    if isinstance(divergence, HasPotential) and not divergence.potential.convex:
        pytest.skip("its potential says that it is not convex")
    for seed in range(20):
        logits, log_q = five_tokens(seed)
        log_p = logits.log_softmax(-1)
        values = (
            expected(divergence, log_p, log_q)
            if type(divergence).__name__ in SINGLE_TERMS_MAY_BE_NEGATIVE
            else at_every_token(divergence, log_p, log_q)
        )
        assert bool((values >= 0).all())


@divergences
def test_a_divergence_is_zero_at_the_anchor(name):
    logits, _ = five_tokens(0)
    log_p = logits.log_softmax(-1)
    values = at_every_token(choice("divergence", name), log_p, log_p.clone())
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-12)


@divergences
def test_a_divergence_passes_gradcheck(name):
    divergence = choice("divergence", name)
    if divergence.reads == "nothing":
        return
    logits, log_q = five_tokens(3)
    assert torch.autograd.gradcheck(
        lambda x: divergence(x.log_softmax(-1), log_q, logits.log_softmax(-1)),
        logits.clone().requires_grad_(),
    )


@divergences
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [69.0, 700.0, 1e4])  # exp(-69) is 1e-30
def test_a_divergence_and_its_gradient_are_finite_for_tokens_of_almost_no_probability(name, dtype, gap):
    divergence = choice("divergence", name)
    sure = torch.tensor([0.0, -gap, -gap, -gap, -gap], dtype=dtype)
    for logits, anchor in [(sure, sure.flip(0)), (sure, 0 * sure), (0 * sure, sure), (sure, sure)]:
        leaf = logits.clone().requires_grad_()
        values = at_every_token(divergence, leaf.log_softmax(-1), anchor.log_softmax(-1))
        assert bool(values.isfinite().all())
        if values.requires_grad:
            assert bool(torch.autograd.grad(values.sum(), leaf)[0].isfinite().all())


@divergences
def test_the_anchor_of_a_divergence_gets_no_gradient(name):
    logits, log_q = five_tokens(0)
    logits.requires_grad_()
    log_q.requires_grad_()
    values = at_every_token(choice("divergence", name), logits.log_softmax(-1), log_q)
    if values.requires_grad:
        values.sum().backward()
    assert log_q.grad is None


@divergences
def test_a_divergence_keeps_the_shape_it_promises(name):
    divergence = choice("divergence", name)
    assert divergence.reads in ("nothing", "sampled", "top", "vocabulary")
    table = torch.full((2, 3, 5), 0.2).log()
    assert divergence(table, table, table).shape == (
        (2, 3) if divergence.reads == "vocabulary" else (2, 3, 5)
    )


# ---------------------------------------------------------------- algorithms: a ragged batch of three groups

algorithms = pytest.mark.parametrize("name", names("algo"))
# Rows whose advantage is not relative to the group, or to its mean reward as a scale.
MOVED_BY_A_CONSTANT = {
    "reinforce_pp_kl_in_reward",
    "reinforce",
    "w_reinforce",
    "maxrl",
    "spo",
    "kalman_baseline",
}


def rollout(seed: int = 0) -> tuple[RolloutBatch, Tensor, Tensor]:
    """Groups that interleave, a token masked inside, a completion without a verdict; live log-probabilities
    and weights.
    """
    draw = torch.Generator().manual_seed(seed)
    completions = [
        completion_of(list(range(2, 2 + length)), group=group, prompt_ids=[1, 2], truncated=length == 6)
        for group, length in [(5, 4), (2, 6), (5, 1), (2, 3), (9, 2), (9, 5), (2, 6), (9, 3)]
    ]
    batch = collate(completions, [1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.25, NAN], pad_id=0, mask_truncated=False)
    mask = batch.mask.clone()
    mask[1, 2] = False
    old, noise, weights = (torch.rand(mask.shape, dtype=torch.float64, generator=draw) for _ in range(3))
    batch = batch.with_(
        mask=mask, rewards=batch.rewards.double(), sampler_logprobs=-2 * old, old_logprobs=-2 * old
    )
    return batch, -2 * old + 1.2 * (noise - 0.5), mean_one(0.1 + weights, mask)


def loss_and_gradient(
    algo: Any, batch: RolloutBatch, live: Tensor, weights: Tensor, denominator: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    leaf = live.clone().requires_grad_()
    policy = PolicyOutputs(logprobs=leaf, entropy=torch.zeros_like(live), divergence=torch.zeros_like(live))
    advantages = algo.advantages(batch)
    loss = policy_loss(
        policy,
        batch,
        advantages[:, None].expand_as(live),
        weights,
        algo=algo,
        penalty=NO_PENALTY,
        denominator=denominator,
    )
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("name", names("algo", oracles.ALGORITHMS))
def test_an_algorithm_equals_its_oracle(name):
    for seed in range(5):
        batch, live, weights = rollout(seed)
        leaf = live.clone().requires_grad_()
        naive = oracles.loss(
            name,
            logprobs=[list(row) for row in leaf],
            old_logprobs=batch.old_logprobs.tolist(),
            divergences=torch.zeros_like(live).tolist(),
            mask=batch.mask.tolist(),
            rewards=batch.rewards.tolist(),
            groups=batch.group.tolist(),
            weights=weights.tolist(),
            beta=0.0,
            scope="credit",
            longest=LONGEST,
        )
        loss, gradient = loss_and_gradient(choice("algo", name), batch, live, weights)
        torch.testing.assert_close(loss, naive.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(naive, leaf)[0], rtol=1e-9, atol=1e-12)


@algorithms
def test_the_first_update_of_an_algorithm_has_the_gradient_of_reinforce_under_its_aggregation(name):
    # With advantage one, as in sft, that is the gradient of the negative log-likelihood.
    algo = choice("algo", name)
    batch, live, weights = rollout()
    leaf = live.clone().requires_grad_()
    advantages = algo.advantages(batch)
    (reinforce,) = torch.autograd.grad(
        algo.aggregate(-weights * advantages[:, None] * leaf, batch.mask), leaf
    )
    _, gradient = loss_and_gradient(algo, batch.with_(old_logprobs=live), live, weights)
    assert bool(gradient.any())
    torch.testing.assert_close(gradient, reinforce, rtol=1e-12, atol=1e-15)


@algorithms
def test_a_tokens_weight_and_an_advantage_that_has_taken_it_in_are_the_same(name):
    # What lets a signed credit take the place of advantages and weights.
    algo = choice("algo", name)
    batch, live, weights = rollout()
    advantages = algo.advantages(batch)[:, None].expand_as(live)
    gradients = []
    for credit, factor in ((advantages, weights), (weights * advantages, torch.ones_like(weights))):
        leaf = live.clone().requires_grad_()
        policy = PolicyOutputs(
            logprobs=leaf, entropy=torch.zeros_like(live), divergence=torch.zeros_like(live)
        )
        loss = policy_loss(policy, batch, credit, factor, algo=algo, penalty=NO_PENALTY)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


@algorithms
def test_an_algorithms_micro_batches_add_up_to_its_window_however_it_is_split(name):
    algo = choice("algo", name)
    batch, live, weights = rollout()
    loss, gradient = loss_and_gradient(algo, batch, live, weights)
    denominator = algo.aggregate.denominator(batch.mask)
    advantages = algo.advantages(batch)
    for seed in range(5):
        part = torch.randint(0, 3, (len(batch),), generator=torch.Generator().manual_seed(seed))
        total, pieces = torch.zeros_like(loss), torch.zeros_like(gradient)
        for rows in ((part == index).nonzero().flatten() for index in part.unique()):
            micro = batch.rows(rows)
            width = micro.mask.shape[1]
            leaf = live[rows, :width].clone().requires_grad_()
            policy = PolicyOutputs(
                logprobs=leaf, entropy=torch.zeros_like(leaf), divergence=torch.zeros_like(leaf)
            )
            share = policy_loss(
                policy,
                micro,
                advantages[rows][:, None].expand_as(leaf),
                weights[rows, :width],
                algo=algo,
                penalty=NO_PENALTY,
                denominator=denominator,
            )
            total += share.detach()
            pieces[rows, :width] += torch.autograd.grad(share, leaf)[0]
        torch.testing.assert_close(total, loss, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(pieces, gradient, rtol=1e-12, atol=1e-15)


@algorithms
@pytest.mark.parametrize("fill", [0.0, NAN, INF])
def test_padding_changes_nothing_in_an_algorithm(name, fill):
    algo = choice("algo", name)
    batch, live, weights = rollout()
    loss, gradient = loss_and_gradient(algo, batch, live, weights)

    def wider(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values, (0, 3), value=fill)

    padded = batch.with_(
        completion_ids=wider(batch.completion_ids, 0),
        present=wider(batch.present, False),
        mask=wider(batch.mask, False),
        deciding=wider(batch.deciding, False),
        sampler_logprobs=wider(batch.sampler_logprobs, fill),
        old_logprobs=wider(batch.old_logprobs, fill),
        anchor_logprobs=wider(batch.anchor_logprobs, fill),
        **{name: torch.nn.functional.pad(getattr(batch, name), (0, 0, 0, 3)) for name in OF_ANCHOR},
    )
    padded_loss, padded_gradient = loss_and_gradient(algo, padded, wider(live, fill), wider(weights, 0.0))
    torch.testing.assert_close(padded_loss, loss, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(padded_gradient, wider(gradient, 0.0), rtol=1e-12, atol=1e-15)


@algorithms
def test_the_order_of_completions_changes_nothing_in_an_algorithm(name):
    algo = choice("algo", name)
    batch, live, weights = rollout()
    loss, gradient = loss_and_gradient(algo, batch, live, weights)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    shuffled_loss, shuffled_gradient = loss_and_gradient(algo, batch.rows(order), live[order], weights[order])
    torch.testing.assert_close(shuffled_loss, loss, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(shuffled_gradient, gradient[order], rtol=1e-12, atol=1e-15)


@algorithms
@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
def test_what_is_under_the_mask_changes_neither_value_nor_gradient_of_an_algorithm(name, garbage):
    algo = choice("algo", name)
    batch, live, weights = rollout()
    loss, gradient = loss_and_gradient(algo, batch, live, weights)
    dirty = batch.with_(old_logprobs=batch.old_logprobs.masked_fill(~batch.mask, garbage))
    dirty_loss, dirty_gradient = loss_and_gradient(
        algo, dirty, live.masked_fill(~batch.mask, garbage), weights
    )
    assert torch.equal(dirty_loss, loss)
    assert torch.equal(dirty_gradient, gradient)


@pytest.mark.parametrize("name", [name for name in names("algo") if name not in MOVED_BY_A_CONSTANT])
def test_a_constant_on_a_groups_rewards_changes_nothing_in_an_algorithm(name):
    algo = choice("algo", name)
    batch, live, weights = rollout()
    loss, gradient = loss_and_gradient(algo, batch, live, weights)
    raised = batch.with_(
        rewards=batch.rewards + torch.where(batch.group == 5, 3.0, torch.where(batch.group == 9, -0.7, 0.0))
    )
    raised_loss, raised_gradient = loss_and_gradient(algo, raised, live, weights)
    torch.testing.assert_close(raised_loss, loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(raised_gradient, gradient, rtol=1e-9, atol=1e-12)


@algorithms
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_an_algorithm_stays_finite_when_a_token_ran_away(name, gap):
    batch, live, weights = rollout()
    old = torch.where(torch.arange(live.shape[1]) == 0, live - gap, batch.old_logprobs)
    single = batch.with_(old_logprobs=old.float(), rewards=batch.rewards.float())
    loss, gradient = loss_and_gradient(choice("algo", name), single, live.float(), weights.float())
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())


# ---------------------------------------------------------------- weightings

weightings = pytest.mark.parametrize("name", weights_of())


def answers() -> RolloutBatch:
    """Worked answers of one token a character, with spans and a mark; one twice, one without a mark, a
    program, and one that is not trained. Of the first three, some tokens decide.
    """
    texts = (
        "2 + 3 = 5. So 5 * 2 = 10\n#### 10",
        "1 + 1 = 2 and that is it.\n2 * 10 = 20\n#### 20",
        ("7 * 7 = 49\n49 - 9 = 40\nSo there are forty.\n#### 40"),
        "2 + 3 = 5. So 5 * 2 = 10\n#### 10",
        "3 + 3 = 6, no mark",
        "x = 1\ny = x + 2\nprint(y)\n",
        "1 + 2 = 3\n#### 3",
    )
    batch = worked.batch(*texts, rewards=[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], groups=[4, 4, 4, 4, 2, 2, 2])
    mask = batch.mask.clone()
    mask[6] = False
    deciding = torch.zeros_like(mask)
    deciding[:3, 3:7] = True
    return batch.with_(mask=mask, deciding=deciding)


class TableScorer:
    """Numbers that depend on the token and its place, as a policy's would."""

    def entropies(self, batch: RolloutBatch) -> Tensor:
        places = torch.arange(batch.completion_ids.shape[1])
        return torch.where(batch.present, 0.1 + (batch.completion_ids * 5 + places) % 7, 0.0)

    def with_offsets(self, batch: RolloutBatch) -> list[TokenOffsets]:
        return worked.Table({}).with_offsets(batch)

    def logprobs(self, batch: RolloutBatch) -> Tensor:
        places = torch.arange(batch.completion_ids.shape[1])
        return torch.where(batch.present, -0.1 - (batch.completion_ids * 7 + places * 3) % 5, 0.0)

    def cut(self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking) -> tuple[Tensor, Tensor]:
        before = self.logprobs(batch)
        hidden = [0.3 * (int(batch.completion_ids[cut.row, cut.start]) + cut.end - cut.start) for cut in cuts]
        return before, torch.stack([before[cut.row] - loss for cut, loss in zip(cuts, hidden, strict=True)])

    def importance(self, batch: RolloutBatch, firsts: Sequence[int], signal: str) -> Tensor:
        return self.entropies(batch)


@weightings
def test_what_the_tests_below_ask_of_a_weighting_they_ask_of_weights_that_differ(name):
    batch = answers()
    weights = choice("weighting", name)(batch, TableScorer(), 3)
    constant = [len(set(weights[row][batch.mask[row]].tolist())) <= 1 for row in range(len(batch))]
    assert all(constant) if name == "uniform" else not all(constant)


@weightings
def test_token_weights_are_not_negative_finite_and_constant(name):
    batch = answers()
    weights = choice("weighting", name)(batch, TableScorer(), 0)
    assert weights.shape == batch.mask.shape
    assert not weights.requires_grad
    assert bool(weights[batch.mask].isfinite().all())
    assert bool((weights[batch.mask] >= 0).all())


@weightings
def test_token_weights_have_mean_one_over_the_trained_tokens_of_each_completion(name):
    batch = answers()
    weights = mean_one(choice("weighting", name)(batch, TableScorer(), 0), batch.mask)
    trained = batch.mask.any(dim=1)
    means = weights.sum(dim=1)[trained] / batch.mask.sum(dim=1)[trained]
    torch.testing.assert_close(means, torch.ones_like(means))
    assert not bool(weights[~batch.mask].any())


@weightings
def test_token_weights_are_a_function_of_batch_and_seed(name):
    weighting = choice("weighting", name)
    state = torch.get_rng_state()
    assert torch.equal(weighting(answers(), TableScorer(), 7), weighting(answers(), TableScorer(), 7))
    assert torch.equal(torch.get_rng_state(), state), (
        "randomness comes from the seed, not from the global generator"
    )


@weightings
def test_a_completion_has_the_same_weights_wherever_it_stands_and_however_wide_the_batch_is(name):
    weighting, batch = choice("weighting", name), answers()
    inner = weighting.weighting if isinstance(weighting, Unscored) else weighting
    if isinstance(inner, TopEntropy) and inner.over == "batch":
        pytest.skip("ranks the whole rollout")
    whole = masked(weighting(batch, TableScorer(), 3), batch.mask)
    for row in range(len(batch)):
        alone = batch.rows(torch.tensor([row]))
        width = alone.mask.shape[1]
        torch.testing.assert_close(
            masked(weighting(alone, TableScorer(), 3), alone.mask)[0], whole[row, :width], rtol=0, atol=0
        )
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        masked(weighting(batch.rows(order), TableScorer(), 3), batch.mask[order]), whole[order]
    )


@weightings
def test_what_is_under_the_mask_changes_no_weight(name):
    weighting, batch = choice("weighting", name), answers()
    # A completion that is not trained is not weighted either.
    batch = batch.rows(batch.mask.any(dim=1).nonzero().flatten())
    clean = TableScorer()

    class Dirty(TableScorer):
        def logprobs(self, batch):
            return clean.logprobs(batch).masked_fill(~batch.mask, NAN)

        def entropies(self, batch):
            return clean.entropies(batch).masked_fill(~batch.mask, NAN)

    assert torch.equal(
        masked(weighting(batch, Dirty(), 3), batch.mask), masked(weighting(batch, clean, 3), batch.mask)
    )


# ---------------------------------------------------------------- what a new file has to enter


def written(page: str) -> set[str]:
    return set(re.findall(r"\w+", (DOCS / page).read_text()))


def documented_divergences() -> set[str]:
    """A page that names a family names its members, whose suffixes it explains."""
    page, suffix = written("divergences.md"), re.compile(r"_(corrected|exact|topk)$")
    return {name for name in names("divergence") if {name, suffix.sub("", name)} & page}


def test_every_row_stands_in_every_table():
    tables = [
        ("divergence", "STATED in tests/test_axes.py", stated),
        ("divergence", "DIVERGENCES in tests/oracles.py", oracles.DIVERGENCES),
        ("divergence", "docs/divergences.md", documented_divergences()),
        ("divergence", "docs/algorithms.md (mirrorpo.tools.estimator_table)", written("algorithms.md")),
        ("algo", "ALGORITHMS in tests/oracles.py", oracles.ALGORITHMS),
        ("algo", "the table of rows of docs/algorithms.md", written("algorithms.md")),
        ("algo", "Methods of docs/papers.md", written("papers.md")),
        ("weighting", "docs/weightings.md", written("weightings.md")),
        ("dataset", "docs/data.md", written("data.md")),
        ("reward", "docs/rewards.md", written("rewards.md")),
        ("model", "docs/models.md", written("models.md")),
    ]
    missing = [
        f"conf/{axis}/{name}.yaml has no entry in {table}"
        for axis, table, entries in tables
        for name in names(axis)
        if name not in entries
    ]
    assert not missing, "\n".join(missing)
