"""What keeps the entropy up: gains by enumeration over five tokens, the coefficient's walk, tokens held.

The policy is a table of three steps over five tokens, 125 completions.
"""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from completions import completion_of
from expectation import Expectation
from torch import Tensor

from mirrorpo.algo.advantage import NoBaseline
from mirrorpo.algo.aggregate import TokenMean
from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL, Adaptive, Bonus, Covariance, covariances
from mirrorpo.algo.ratio import TokenRatio
from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.surrogate import Clipped, Unclipped
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.rollout.collate import collate
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.entropy import EntropyTerm
from mirrorpo.train.loss import policy_loss

V, T, C = 5, 3, 0.3
COMPLETIONS = [*product(range(V), repeat=T)]
IDS = torch.tensor(COMPLETIONS)
# The state of each token: the number of the prefix before it.
STATES = torch.tensor([[0, 1 + a, 1 + V + V * a + b] for a, b, _ in COMPLETIONS])
NAN = float("nan")
NOTHING = Penalty(divergence=NoDivergence(), beta=0.0, anchor="reference", scope="credit", placement="loss")
PLAIN = RolloutRule(
    dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
)


def row(aggregate, surrogate=None) -> Algorithm:
    return Algorithm(
        advantage=NoBaseline(),
        ratio=TokenRatio(),
        surrogate=surrogate or Unclipped(),
        aggregate=aggregate,
        rollout_rule=PLAIN,
    )


def table(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Logits of all 31 states."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1 + V + V * V, V, dtype=torch.float64, generator=draw).to(dtype)


def at_tokens(log_p: Tensor) -> Tensor:
    return log_p[STATES].gather(-1, IDS[..., None]).squeeze(-1)


def entropy_of(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(dim=-1)


def gradient(control, logits: Tensor, old_logits: Tensor, scope="credit", weights: float = 1.0) -> Tensor:
    """Of the expected loss over all completions of the old policy; rewards are zero."""
    logits = logits.clone().requires_grad_()
    log_p, log_old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    live, old = at_tokens(log_p), at_tokens(log_old)
    batch = collate(
        [completion_of(list(ids)) for ids in COMPLETIONS], [0.0] * len(IDS), pad_id=0, mask_truncated=False
    ).with_(old_logprobs=old)
    term = EntropyTerm(control=control).at_step({}, 0)
    outputs = PolicyOutputs(
        logprobs=live, entropy=entropy_of(log_p)[STATES], divergence=torch.zeros_like(live)
    )
    of_tokens = torch.full_like(old, weights)
    advantages, of_tokens = term.credited(torch.zeros_like(old), of_tokens, batch, scope)
    loss = policy_loss(
        term.applied(outputs, batch, None),
        batch,
        advantages,
        of_tokens,
        algo=row(Expectation(old.sum(dim=1).exp())),
        penalty=replace(NOTHING, scope=scope),
    )
    return torch.autograd.grad(loss, logits, allow_unused=True)[0]


def of_own_states(logits: Tensor, old_logits: Tensor, measure) -> Tensor:
    """-c times the gradient of a measure at each state, weighed by how often the old policy is there."""
    logits = logits.clone().requires_grad_()
    log_p, log_old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    chance = at_tokens(log_old).sum(dim=1).exp()
    objective = -C * (chance[:, None] * measure(log_p, log_old)[STATES]).sum()
    return torch.autograd.grad(objective, logits)[0]


def cross_entropy(log_p: Tensor, log_old: Tensor) -> Tensor:
    return -(log_p.exp() * log_old).sum(dim=-1)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_gains_have_the_gradient_of_each_states_own_entropy_and_a_sampled_one_of_the_cross_entropy(
    dtype, digits
):
    exact, sampled = (Bonus(estimator=name, coefficient=C) for name in ("exact", "sampled"))
    live, old = table(0, dtype), table(1, dtype)
    entropy = lambda log_p, log_old: entropy_of(log_p)  # noqa: E731
    for control, before, measure in (
        (exact, live, entropy),
        (exact, old, entropy),
        (sampled, live, entropy),
        (sampled, old, cross_entropy),
    ):
        expected = of_own_states(live, before, measure)
        assert float(expected.abs().max()) > 1e-2
        torch.testing.assert_close(gradient(control, live, before), expected, rtol=0, atol=digits)
    # Token weights multiply what is gained where they multiply the divergence, and nowhere else.
    for control in (exact, sampled):
        plain = gradient(control, live, live)
        torch.testing.assert_close(gradient(control, live, live, weights=2.0), plain)
        torch.testing.assert_close(gradient(control, live, live, "loss", 2.0), 2 * plain)


def test_what_both_drop_is_how_often_a_state_is_visited():
    logits = table(0).requires_grad_()
    log_p = logits.log_softmax(-1)
    chance = at_tokens(log_p).sum(dim=1).exp()
    (full,) = torch.autograd.grad(-C * (chance[:, None] * entropy_of(log_p)[STATES]).sum(), logits)
    gap = full - gradient(Bonus(estimator="exact", coefficient=C), table(0), table(0))
    # The last token of a completion leads nowhere.
    assert float(gap[0].abs().max()) > 1e-3 and float(gap[1 + V :].abs().max()) < 1e-12


def test_a_gain_of_zero_and_no_control_change_nothing_to_the_bit():
    live, old = table(0), table(1)
    batch, outputs = batch_of(), outputs_of()
    for control in (
        NO_ENTROPY_CONTROL,
        Bonus(estimator="exact", coefficient=0.0),
        Bonus(estimator="sampled", coefficient=0.0),
        replace(ADAPTIVE, start=0.0),
    ):
        term = EntropyTerm(control=control).at_step({}, 0)
        assert not (term.gains or term.has_gradient or term.chooses)
        assert term.applied(outputs, batch, None) is outputs
        advantages, weights = torch.ones(2, 3), torch.ones(2, 3)
        credited = term.credited(advantages, weights, batch, "credit")
        assert credited[0] is advantages and credited[1] is weights
        assert not bool(gradient(control, live, old).any())


# ---------------------------------------------------------------- the coefficient's walk

ADAPTIVE = Adaptive(
    estimator="exact", target=0.2, start=0.005, step=0.005, least=0.0, most=0.02, only_below=True
)


def walk(control: Adaptive, entropies: list[float]) -> list[float]:
    memory, gains = {}, []
    for entropy in entropies:
        gains.append(control.gain(memory))
        memory = control.after(memory, {"entropy/mean": entropy})
    return gains


def published(entropies: list[float]) -> list[float]:
    """TRL's rule, on whole optimiser steps."""
    coefficient, last, applied = 0.005, None, []
    for entropy in entropies:
        applied.append(0.0 if last is not None and last > 0.2 else coefficient)
        coefficient += 0.005 if entropy <= 0.2 else -0.005
        coefficient, last = min(max(coefficient, 0.0), 0.02), entropy
    return applied


def test_the_coefficient_walks_as_published_and_acts_after_steps_at_the_target_or_below():
    entropies = [0.5, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.19, 0.1]
    assert walk(ADAPTIVE, entropies) == published(entropies)
    assert walk(ADAPTIVE, entropies)[:5] == [0.005, 0.0, 0.0, 0.005, 0.01]
    assert max(walk(ADAPTIVE, [0.1] * 9)) == 0.02
    # Always acting, it is the coefficient itself.
    always = walk(replace(ADAPTIVE, only_below=False), [0.1, 0.1, 0.3, 0.3, 0.3, 0.3])
    assert always == pytest.approx([0.005, 0.01, 0.015, 0.01, 0.005, 0.0])


def test_a_coefficient_of_zero_goes_on_being_moved_and_a_step_without_a_measurement_moves_nothing():
    down = ADAPTIVE.after({}, {"entropy/mean": 0.9})
    assert down["coefficient"] == 0.0 and ADAPTIVE.gain(down) == 0.0
    up = ADAPTIVE.after(down, {"entropy/mean": 0.1})
    assert ADAPTIVE.gain(up) == 0.005
    for metrics in ({}, {"entropy/mean": NAN}):
        assert ADAPTIVE.after(up, metrics) == up
        assert ADAPTIVE.after({}, metrics) == {}


# ---------------------------------------------------------------- which tokens are held


def batch_of() -> RolloutBatch:
    completions = [completion_of([2, 3, 4]), completion_of([5, 6, 7])]
    batch = collate(completions, [0.0, 1.0], pad_id=0, mask_truncated=False)
    return batch.with_(old_logprobs=torch.full((2, 3), -1.0))


def outputs_of() -> PolicyOutputs:
    return PolicyOutputs(logprobs=torch.zeros(2, 3), entropy=torch.ones(2, 3), divergence=torch.zeros(2, 3))


def drawn(rows: int = 12, width: int = 9) -> dict[str, Tensor]:
    """Old and live log-probabilities, advantages, mask; some ratios are clipped."""
    draw = torch.Generator().manual_seed(3)
    old = -4 * torch.rand(rows, width, dtype=torch.float64, generator=draw)
    live = old + 0.3 * torch.randn(rows, width, dtype=torch.float64, generator=draw)
    advantages = torch.randn(rows, 1, dtype=torch.float64, generator=draw).expand(rows, width).clone()
    return {
        "live": live,
        "old": old,
        "advantages": advantages,
        "mask": torch.rand(rows, width, generator=draw) < 0.8,
        "draws": torch.rand(rows, width, dtype=torch.float64, generator=draw),
    }


CLIPPED = Clipped(low=0.2, high=0.28)
CLIP = Covariance(method="clip", share=0.05, low=0.5, high=3.0, beta=0.0)
KL = Covariance(method="kl", share=0.05, low=0.0, high=1.0, beta=0.7)


def held(control: Covariance, values: dict[str, Tensor]) -> Tensor:
    mask = values["mask"]
    log_ratio = torch.where(mask, values["live"] - values["old"], torch.zeros_like(values["live"]))
    clipped = CLIPPED.clipped(log_ratio, values["advantages"])
    return control.chosen(values["live"], values["advantages"], clipped, values["draws"], mask)


def loss_of(control: Covariance, surrogate, values: dict[str, Tensor]) -> tuple[float, Tensor]:
    """Mean over the trained tokens, and its gradient to the live log-probabilities."""
    live = values["live"].clone().requires_grad_()
    mask = values["mask"]
    batch = batch_of_size(mask).with_(old_logprobs=values["old"])
    outputs = PolicyOutputs(logprobs=live, entropy=torch.zeros_like(live), divergence=torch.zeros_like(live))
    outputs = EntropyTerm(control=control).applied(outputs, batch, held(control, values))

    algo = row(TokenMean(), surrogate)
    loss = policy_loss(
        outputs, batch, values["advantages"], torch.ones_like(live), algo=algo, penalty=NOTHING
    )
    return float(loss.detach()), torch.autograd.grad(loss, live)[0]


def batch_of_size(mask: Tensor) -> RolloutBatch:
    rows, width = mask.shape
    completions = [completion_of([2 + row] * width) for row in range(rows)]
    return collate(completions, [0.0] * rows, pad_id=0, mask_truncated=False).with_(mask=mask)


def tokens_of(values: dict[str, Tensor]) -> list[dict[str, float]]:
    """The trained tokens in order, with their covariances by loops."""
    mask = values["mask"]
    places = [(i, t) for i in range(len(mask)) for t in range(mask.shape[1]) if mask[i, t]]
    mean_a = math.fsum(float(values["advantages"][place]) for place in places) / len(places)
    mean_l = math.fsum(float(values["live"][place]) for place in places) / len(places)
    out = []
    for place in places:
        a, live = float(values["advantages"][place]), float(values["live"][place])
        ratio = math.exp(live - float(values["old"][place]))
        cov = (a - mean_a) * (live - mean_l)
        draw = float(values["draws"][place])
        out.append({"at": place, "a": a, "ratio": ratio, "cov": cov, "draw": draw})
    return out


def test_clip_cov_is_verls_by_formula():
    values = drawn()
    tokens = tokens_of(values)
    cut = {True: 1 - 0.2, False: 1 + 0.28}
    band, loss, gradient = [], 0.0, {}
    for token in tokens:
        inside = min(max(token["ratio"], cut[True]), cut[False])
        plain, clipped = -token["a"] * token["ratio"], -token["a"] * inside
        token["clipped"] = clipped > plain
        if not token["clipped"] and 0.5 < token["cov"] < 3.0:
            band.append(token)
        token["loss"], token["slope"] = max(plain, clipped), 0.0 if token["clipped"] else plain
    count = max(int(0.05 * len(tokens)), 1)
    assert count < len(band) and any(token["clipped"] and token["cov"] > 0.5 for token in tokens)
    # Any of the band may be drawn; ours are those with the smallest numbers.
    taken = {token["at"] for token in sorted(band, key=lambda token: token["draw"])[:count]}
    for token in tokens:
        if token["at"] not in taken:
            loss += token["loss"] / len(tokens)
            gradient[token["at"]] = token["slope"] / len(tokens)
    ours, slopes = loss_of(CLIP, CLIPPED, values)
    assert ours == pytest.approx(loss, rel=1e-12)
    for i, t in product(*map(range, values["mask"].shape)):
        assert float(slopes[i, t]) == pytest.approx(gradient.get((i, t), 0.0), rel=1e-12, abs=1e-15)
    assert {tuple(place) for place in held(CLIP, values).nonzero().tolist()} == taken


def test_kl_cov_is_verls_by_formula():
    values = drawn()
    tokens = tokens_of(values)
    count = max(1, int(len(tokens) * 0.05))
    largest = {token["at"] for token in sorted(tokens, key=lambda token: -token["cov"])[:count]}
    assert count > 2
    loss, gradient = 0.0, {}
    for token in tokens:
        log_ratio = math.log(token["ratio"])
        paid = token["at"] in largest
        loss += (-token["a"] * token["ratio"] + 0.7 * paid * abs(log_ratio)) / len(tokens)
        sign = math.copysign(1.0, log_ratio)
        gradient[token["at"]] = (-token["a"] * token["ratio"] + 0.7 * paid * sign) / len(tokens)
    ours, slopes = loss_of(KL, Unclipped(), values)
    assert ours == pytest.approx(loss, rel=1e-12)
    for i, t in product(*map(range, values["mask"].shape)):
        assert float(slopes[i, t]) == pytest.approx(gradient.get((i, t), 0.0), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("rounding", [0.0, 2e-5])
def test_while_the_policy_is_the_old_one_up_to_rounding_a_penalty_to_it_has_no_gradient(rounding):
    noise = torch.randn(12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    values = drawn() | {"live": drawn()["old"] + rounding * noise}
    plain, penalised = (loss_of(replace(KL, beta=beta), Unclipped(), values) for beta in (0.0, 0.7))
    assert plain[0] == penalised[0] and torch.equal(plain[1], penalised[1])


@pytest.mark.parametrize("control", [CLIP, KL], ids=["clip", "kl"])
def test_neither_order_nor_padding_nor_what_is_under_the_mask_chooses_a_token(control):
    values = drawn()
    # Equal covariances, which the draws part: half of the completions stand there twice.
    values = {name: torch.cat([part, part[:6]]) for name, part in values.items()}
    values["draws"] = torch.rand(18, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ours = held(control, values)
    assert 0 < int(ours.sum()) == int(0.05 * int(values["mask"].sum()))
    order = torch.randperm(18, generator=torch.Generator().manual_seed(6))
    assert torch.equal(held(control, {name: part[order] for name, part in values.items()}), ours[order])
    wider = {
        name: torch.nn.functional.pad(part, (0, 4), value=0.0 if name == "mask" else NAN)
        for name, part in values.items()
    }
    assert torch.equal(held(control, wider), torch.nn.functional.pad(ours, (0, 4)))
    for name in ("live", "old", "advantages"):
        dirty = values | {name: values[name].where(values["mask"], torch.tensor(NAN).double())}
        assert torch.equal(held(control, dirty), ours), name
    for dirty in (
        drawn(),
        drawn() | {"live": drawn()["live"].where(drawn()["mask"], torch.tensor(NAN).double())},
    ):
        loss, slopes = loss_of(control, Unclipped(), dirty)
        assert math.isfinite(loss) and bool(slopes[dirty["mask"]].isfinite().all())


def test_no_token_and_none_in_the_band_are_no_tokens_and_a_share_is_at_least_one():
    values = drawn()
    nothing = values | {"mask": torch.zeros_like(values["mask"])}
    assert not bool(held(CLIP, nothing).any() or held(KL, nothing).any())
    assert not bool(held(replace(CLIP, low=90.0, high=91.0), values).any())
    assert [int(held(replace(control, share=1e-6), values).sum()) for control in (CLIP, KL)] == [1, 1]
    everything = held(replace(CLIP, share=1.0, low=-math.inf, high=math.inf), values)
    clipped = CLIPPED.clipped(values["live"] - values["old"], values["advantages"]) & values["mask"]
    assert torch.equal(everything, values["mask"] & ~clipped) and bool(clipped.any())


def test_the_mean_is_the_covariance_of_the_trained_tokens():
    values = drawn()
    mask = values["mask"]
    ours = covariances(values["live"], values["advantages"], mask)
    pair = torch.stack([values["live"][mask], values["advantages"][mask]])
    torch.testing.assert_close(ours.sum() / mask.sum(), torch.cov(pair, correction=0)[0, 1])
    assert not bool(ours[~mask].any())


def test_a_token_draws_its_number_by_its_completion_the_step_and_the_update_and_not_by_its_place():
    term = EntropyTerm(control=replace(CLIP, share=0.4, low=-math.inf, high=math.inf))
    ids = [[2, 3, 4], [5, 6], [7, 8, 9, 10], [3, 3, 3]]
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0])

    def chosen(order: list[int], seed: int = 0, update: int = 0, pads: int = 0) -> list[list[bool]]:
        longest = [[1] * (4 + pads)] if pads else []
        completions = [
            completion_of(tokens, prompt_ids=[1]) for tokens in [*(ids[i] for i in order), *longest]
        ]
        batch = collate(completions, [0.0] * len(completions), pad_id=0, mask_truncated=False)
        live = batch.with_(old_logprobs=-batch.completion_ids.float() / 4).old_logprobs
        batch = batch.with_(old_logprobs=live)
        credit = TokenCredit(
            advantages=torch.cat([advantages[order], torch.zeros(len(longest))]),
            weights=batch.mask.float(),
        )
        rows = torch.arange(len(order))
        algo = row(TokenMean(), CLIPPED)
        of_step = replace(term, seed=seed)
        tokens = of_step.held(batch, credit, rows, live, algo, update)
        assert tokens is not None
        return [tokens.chosen[index].tolist() for index in range(len(order))]

    first = chosen([0, 1, 2, 3])
    shuffled = chosen([3, 0, 2, 1])
    assert [shuffled[place] for place in (1, 3, 2, 0)] == first
    assert [places[:4] for places in chosen([0, 1, 2, 3], pads=3)] == first
    assert sum(map(sum, first)) == int(0.4 * 12)
    others = [chosen([0, 1, 2, 3], seed=seed, update=update) for seed, update in ((1, 0), (0, 1), (2, 0))]
    assert any(other != first for other in others)


def test_settings_that_mean_nothing_are_refused_by_name():
    for make, message in (
        (lambda: Bonus(estimator="exact", coefficient=-0.1), r"entropy\.coefficient=-0\.1"),
        (lambda: Bonus(estimator="exact", coefficient=NAN), r"entropy\.coefficient=nan"),
        (lambda: replace(ADAPTIVE, target=0.0), r"entropy: target=0\.0"),
        (lambda: replace(ADAPTIVE, step=0.0), r"step=0\.0"),
        (lambda: replace(ADAPTIVE, start=0.5), r"start=0\.5"),
        (lambda: replace(ADAPTIVE, least=-1.0), r"least=-1\.0"),
        (lambda: replace(CLIP, share=0.0), r"entropy\.share=0\.0"),
        (lambda: replace(CLIP, low=3.0), r"entropy\.low=3\.0, high=3\.0"),
        (lambda: replace(KL, beta=-1.0), r"entropy\.beta=-1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
