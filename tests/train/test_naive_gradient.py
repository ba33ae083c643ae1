"""One step's gradient against a naive reference, for every algorithm with every divergence of conf/.

Ours: the learner, with padded micro-batches, tiles of the vocabulary and its own scoring of the anchor.
Naive: each sequence alone and unpadded, its full logits, and the loops of `oracles`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import jaxtyping
import oracles
import pytest
import torch
from completions import completion_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rows import CONF, forms, names, settings_of, update_forms
from small_models import TINY, model_of, network_of
from torch import Tensor
from transformers import PreTrainedModel

from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL, Bonus, Covariance
from mirrorpo.algo.trust_region import DivergenceRegion
from mirrorpo.config.schema import register, resolved
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import mean_one
from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.potentials import NegativeEntropy
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_penalty
from mirrorpo.train.credit import TokenCredit, signed_credit
from mirrorpo.train.entropy import EntropyTerm
from mirrorpo.train.learner import Learner
from mirrorpo.train.micro_batch import micro_batches, plan_micro_batches
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

ALGORITHMS = update_forms(names("algo", oracles.ALGORITHMS))
DIVERGENCES = names("divergence", oracles.DIVERGENCES)
FORMS = forms(DIVERGENCES)
LONGEST = 6
TEMPERATURE = 0.7
BETA = 0.3  # far above the files' own, so that no penalty hides below the tolerance
TOKENS = 24
TILE = 2

# (prompt, completion, group, reward): ragged on both sides, groups interleaved, one completion without a
# verdict.
ROLLOUT = [
    ([3, 7], [5, 2, 9, 1], 8, 1.0),
    ([4, 4, 10, 6], [8, 3], 5, 0.0),
    ([3, 7], [6, 1], 8, 0.0),
    ([4, 4, 10, 6], [2, 2, 7, 9, 4, 1], 5, 1.0),
    ([5], [9, 1, 3], 2, float("nan")),
    ([4, 4, 10, 6], [10], 5, 0.25),
]


@cache
def choice(axis: str, name: str) -> Any:
    if axis == "divergence":
        return build_penalty(settings_of(name, **({} if name == "none" else {"beta": BETA})))
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"{axis}={name}", f"max_new_tokens={LONGEST}"])
        return instantiate(resolved(cfg)[axis], _convert_="all")


def network(seed: int) -> PreTrainedModel:
    shape = {**TINY, "vocab_size": 11, "tie_word_embeddings": False, "initializer_range": 0.3}
    return network_of("qwen3", seed, dtype=torch.float64, **shape)


def near(start: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A policy some updates away."""
    moved, draw = network(0), torch.Generator().manual_seed(seed)
    moved.load_state_dict(start.state_dict())
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
    return moved


def naive_logprobs(net: PreTrainedModel) -> list[Tensor]:
    """For each completion, [tokens, vocabulary]: the full logits of one unpadded sequence."""
    out = []
    for prompt, completion, _, _ in ROLLOUT:
        logits = net(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0]
        out.append((logits[len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1))
    return out


class World(NamedTuple):
    """The networks and what the naive reference reads off them, once for all cells."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    old: PreTrainedModel
    batch: RolloutBatch
    weights: Tensor
    log_p: list[Tensor]
    log_reference: list[Tensor]
    log_old: list[Tensor]
    rescored: dict[tuple[Any, ...], ScoredBatch]


@pytest.fixture(scope="module")
def world() -> World:
    policy, reference = network(0), near(network(0), seed=2)
    old = near(policy, seed=24)
    completions = [completion_of(ids, group=group, prompt_ids=prompt) for prompt, ids, group, _ in ROLLOUT]
    batch = collate(completions, [reward for _, _, _, reward in ROLLOUT], pad_id=0, mask_truncated=False)
    mask = batch.mask.clone()
    mask[3, 2] = False  # present, not trained
    weights = mean_one(
        0.2 + torch.rand(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), mask
    )
    with torch.no_grad():
        frozen = [naive_logprobs(net) for net in (reference, old)]
    return World(
        policy,
        reference,
        old,
        batch.with_(mask=mask, rewards=batch.rewards.double()),
        weights,
        naive_logprobs(policy),
        *frozen,
        {},
    )


class Recorder:
    """An optimiser that keeps every update's gradient and moves nothing."""

    def __init__(self, net: PreTrainedModel) -> None:
        self.net, self.gradients = net, []

    def step(self, lr: float) -> None:
        self.gradients.append([parameter.grad.clone() for parameter in self.net.parameters()])

    def zero_grad(self) -> None:
        self.net.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def learner(
    world: World,
    live: PreTrainedModel,
    algo: str,
    divergence: str,
    *,
    scope: str,
    updates: int,
    window: str,
    prefix_sharing: str,
) -> Learner:
    return Learner(
        policy=model_of(live),
        reference=model_of(world.reference),
        optimiser=Recorder(live),
        algo=choice("algo", algo),
        penalty=replace(choice("divergence", divergence), scope=scope),
        weighting=Unscored(weighting=Uniform()),
        settings=UpdateSettings(
            temperature=TEMPERATURE,
            logit_chunk=TILE,
            tokens_per_micro_batch=TOKENS,
            tokens_per_call=None,
            shared_prefix=prefix_sharing,
            updates_per_rollout=updates,
            update_window=window,
            max_grad_norm=0.0,
        ),
    )


def our_gradients(
    world: World,
    algo: str,
    divergence: str,
    *,
    scope: str = "credit",
    updates: int = 1,
    window: str = "whole",
    prefix_sharing: str = "never",
) -> list[list[Tensor]]:
    """Each update's gradient; with one update the old policy is the live one, else it is `world.old`."""
    settings = {
        "algo": algo,
        "divergence": divergence,
        "scope": scope,
        "updates": updates,
        "window": window,
        "prefix_sharing": prefix_sharing,
    }
    student = learner(world, world.policy, **settings)
    scored = rescored(world, student, divergence, settings)
    batch = scored.batch
    if updates > 1:
        batch = batch.with_(old_logprobs=in_float64(world.log_old, batch))
    if choice("divergence", divergence).reads in ("sampled", "top"):
        batch = batch.with_(anchor_logprobs=in_float64(anchor(world, divergence, updates), batch))
    advantages = student.algo.advantages(batch)
    credit = TokenCredit(advantages=advantages, weights=world.weights)
    student.learn(replace(scored, batch=batch), credit, lrs=[1.0] * updates)
    return student.optimiser.gradients


def rescored(world: World, student: Learner, divergence: str, settings: dict[str, Any]) -> ScoredBatch:
    """The passes before the updates; all that an algorithm changes is whether they read the old policy."""
    key = (divergence, settings["updates"], settings["prefix_sharing"], student.reads_before_updates)
    if key not in world.rescored:
        old = world.policy if settings["updates"] == 1 else world.old
        world.rescored[key] = learner(world, old, **settings).rescore(world.batch)
    return world.rescored[key]


def anchor(world: World, divergence: str, updates: int) -> list[Tensor]:
    if choice("divergence", divergence).anchor == "reference":
        return world.log_reference
    return world.log_old if updates > 1 else [table.detach() for table in world.log_p]


def in_float64(logprobs: list[Tensor], batch: RolloutBatch) -> Tensor:
    """The sampled tokens' entries, padded; the learner's own scores are float32."""
    out = torch.full(batch.mask.shape, float("nan"), dtype=torch.float64)
    for row, (_, completion, _, _) in enumerate(ROLLOUT):
        for place, token in enumerate(completion):
            out[row, place] = logprobs[row][place, token]
    return out


def trained_tokens() -> list[list[bool]]:
    return [
        [reward == reward and (row, place) != (3, 2) for place in range(len(completion))]
        for row, (_, completion, _, reward) in enumerate(ROLLOUT)
    ]


def naive_table(world: World, divergence: str, updates: int, rows: list[int]) -> dict[str, list[list[Any]]]:
    """What the loops of `oracles` read of each row, token by token."""
    log_q = anchor(world, divergence, updates)
    measure = oracles.DIVERGENCES[divergence]
    table: dict[str, list[list[Any]]] = {
        key: [] for key in ("logprobs", "old_logprobs", "divergences", "mask", "weights")
    }
    for row in rows:
        tokens = list(enumerate(ROLLOUT[row][1]))
        live = [world.log_p[row][place, token] for place, token in tokens]
        old = (
            [value.detach() for value in live]
            if updates == 1
            else [world.log_old[row][place, token] for place, token in tokens]
        )
        table["logprobs"].append(live)
        table["old_logprobs"].append(old)
        table["divergences"].append(
            [
                measure(list(world.log_p[row][place]), list(log_q[row][place]), token, old[place])
                for place, token in tokens
            ]
        )
        table["mask"].append(trained_tokens()[row])
        table["weights"].append(world.weights[row].tolist()[: len(tokens)])
    return table


def naive_gradient(
    world: World,
    algo: str,
    divergence: str,
    *,
    scope: str = "credit",
    updates: int = 1,
    groups: tuple[int, ...] = (8, 5, 2),
) -> list[Tensor]:
    rows = [row for row, (_, _, group, _) in enumerate(ROLLOUT) if group in groups]
    table = naive_table(world, divergence, updates, rows)
    advantages = oracles.row_advantages(
        algo, [row[3] for row in ROLLOUT], [row[2] for row in ROLLOUT], trained_tokens()
    )
    if algo in oracles.UPDATE_ADVANTAGES:
        advantages = naive_update_advantages(algo, advantages, table, rows)
    loss = oracles.loss(
        algo,
        **table,
        advantages=[advantages[row] for row in rows],
        rewards=[ROLLOUT[row][3] for row in rows],
        groups=[ROLLOUT[row][2] for row in rows],
        beta=0.0 if divergence == "none" else BETA,
        scope=scope,
        longest=LONGEST,
    )
    return list(torch.autograd.grad(loss, list(world.policy.parameters()), retain_graph=True))


def naive_update_advantages(
    algo: str, advantages: list[float], table: dict[str, list[list[Any]]], rows: list[int]
) -> list[float]:
    """Advantages as an update of some rows sees them, by group; rows without a trained token keep them."""
    out = [*advantages]
    for group in {ROLLOUT[row][2] for row in rows}:
        members = [
            (row, index)
            for index, row in enumerate(rows)
            if ROLLOUT[row][2] == group and any(table["mask"][index])
        ]

        def total(key: str, index: int) -> float:
            pairs = zip(table[key][index], table["mask"][index], strict=True)
            return sum(float(torch.as_tensor(value).detach()) for value, counted in pairs if counted)

        if members:
            of_update = oracles.UPDATE_ADVANTAGES[algo](
                [float(advantages[row]) for row, _ in members],
                [total("old_logprobs", index) for _, index in members],
                [total("logprobs", index) for _, index in members],
                [sum(table["mask"][index]) for _, index in members],
            )
            for (row, _), value in zip(members, of_update, strict=True):
                out[row] = value
    return out


def assert_equal(ours: list[Tensor], naive: list[Tensor]) -> None:
    assert max(float(gradient.abs().max()) for gradient in naive) > 1e-3
    for mine, its in zip(ours, naive, strict=True):
        # The live policy's scores, which an update's advantages are made of, are float32.
        torch.testing.assert_close(mine, its, rtol=5e-6, atol=1e-6)


def test_the_learner_does_split_this_rollout(world):
    parts = list(micro_batches(world.batch, TOKENS))
    assert len(parts) >= 3
    # At least two whole tiles and a rest.
    assert max(int(world.batch.present[rows].sum()) for rows in parts) > 2 * TILE


def test_the_old_policy_is_far_enough_for_every_trust_region(world):
    ratios = (in_float64(world.log_p, world.batch) - in_float64(world.log_old, world.batch)).detach().exp()
    up = (choice("algo", "grpo").advantages(world.batch) > 0)[:, None] & world.batch.mask
    assert float(ratios[world.batch.mask & ~up].min()) < 0.8
    assert float(ratios[up].max()) > 1.28
    # Between the upper bounds of grpo and dapo.
    assert bool(((ratios > 1.2) & (ratios < 1.28) & up).any())


def crossed(parity: int) -> list[Any]:
    """Every algorithm with every divergence, most of them slow.

    Of algorithm, form of a divergence (`rows.forms`) and on- or off-policy every two choices meet in `make
    test`: the halves of both tests are the two colours of a chessboard. A divergence that is of another's
    form meets two algorithms, one on- and one off-policy. `make test-slow` has the full product.
    """

    def kept(row: int, column: int, divergence: str) -> bool:
        meets = divergence in FORMS or (row - column) % len(ALGORITHMS) in (0, 1)
        return meets and (row + column) % 2 == parity

    return [
        pytest.param(algo, divergence, marks=[pytest.mark.slow] * (not kept(row, column, divergence)))
        for (row, algo), (column, divergence) in product(enumerate(ALGORITHMS), enumerate(DIVERGENCES))
    ]


def test_every_two_of_algorithm_divergence_and_policy_meet_without_the_slow_half():
    kept = {(parity, *case.values[:2]) for parity in (0, 1) for case in crossed(parity) if not case.marks}
    assert {(algo, divergence) for _, algo, divergence in kept} >= set(product(ALGORITHMS, FORMS))
    assert {(parity, algo) for parity, algo, _ in kept} == set(product((0, 1), ALGORITHMS))
    assert {(parity, divergence) for parity, _, divergence in kept} == set(product((0, 1), DIVERGENCES))


@pytest.mark.parametrize(("algo", "divergence"), crossed(0))
def test_on_policy_the_gradient_is_the_naive_one(world, algo, divergence):
    (ours,) = our_gradients(world, algo, divergence)
    assert_equal(ours, naive_gradient(world, algo, divergence))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes are checked on-policy, as in every other suite; here that would be a sixth of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("algo", "divergence"), crossed(1))
def test_off_policy_every_updates_gradient_is_the_naive_one(world, algo, divergence):
    expected = naive_gradient(world, algo, divergence, updates=2)
    for ours in our_gradients(world, algo, divergence, updates=2):
        assert_equal(ours, expected)


def test_an_advantage_with_anothers_update_has_the_naive_gradient(world):
    others = [name for name in names("algo", oracles.ALGORITHMS) if name not in ALGORITHMS]
    assert others
    for algo in others:
        (ours,) = our_gradients(world, algo, "none")
        assert_equal(ours, naive_gradient(world, algo, "none"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_scope_loss_the_gradient_is_the_naive_one(world, divergence):
    (ours,) = our_gradients(world, "dapo", divergence, scope="loss")
    assert_equal(ours, naive_gradient(world, "dapo", divergence, scope="loss"))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_split_updates_take_the_naive_gradients_of_their_own_groups(world, algo):
    # Groups in order of their name: 2 and 8 go to the first update, 5 to the second.
    first, second = our_gradients(world, algo, "kl_exact", updates=2, window="split")
    assert_equal(first, naive_gradient(world, algo, "kl_exact", updates=2, groups=(8, 2)))
    assert_equal(second, naive_gradient(world, algo, "kl_exact", updates=2, groups=(5,)))


def test_an_update_that_gets_no_group_is_left_out(world):
    # Dynamic sampling may keep fewer groups than there are updates: three groups, four updates.
    assert len(our_gradients(world, "dapo", "none", updates=4, window="split")) == 3


def shared() -> list[Any]:
    """Every algorithm with three divergences, on- or off-policy in turns, the other half slow (`crossed`)."""
    cells = product(enumerate(["none", "kl", "kl_exact"]), enumerate(ALGORITHMS), (1, 2))
    return [
        pytest.param(divergence, algo, updates, marks=[pytest.mark.slow] * ((row + column + updates) % 2))
        for (row, divergence), (column, algo), updates in cells
    ]


@pytest.mark.parametrize(("divergence", "algo", "updates"), shared())
def test_with_shared_prompts_every_updates_gradient_is_the_naive_one(world, algo, divergence, updates):
    expected = naive_gradient(world, algo, divergence, updates=updates)
    for ours in our_gradients(world, algo, divergence, updates=updates, prefix_sharing="always"):
        assert_equal(ours, expected)


def test_this_rollout_shares_prompts_in_pieces_and_splits_a_group(world):
    parts = plan_micro_batches(world.batch, TOKENS, "always")
    assert len(parts) >= 2
    assert sum(len(set(world.batch.prompt_numbers()[part.rows].tolist())) for part in parts) < len(
        world.batch
    )


@pytest.mark.parametrize("algo", [algo for algo in ALGORITHMS if algo not in oracles.UPDATE_ADVANTAGES])
def test_rows_of_advantage_zero_and_rows_without_a_trained_token_cost_no_backward_pass(
    world, algo, monkeypatch
):
    # Loss, gradient and metrics are those of an update that takes every row backward.
    found = []
    advantages = torch.tensor([1.5, 0.0, -0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    for everything in (False, True):
        if everything:
            monkeypatch.setattr(
                Learner,
                "_has_gradient",
                lambda self, window, credited: torch.ones(len(window), dtype=torch.bool),
            )
        student = learner(
            world,
            world.policy,
            algo,
            "none",
            scope="credit",
            updates=2,
            window="whole",
            prefix_sharing="never",
        )
        seen: list[int] = []
        handle = world.policy.model.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(
                len(kwargs["input_ids"]) if torch.is_grad_enabled() else 0
            ),
            with_kwargs=True,
        )
        batch = world.batch.with_(old_logprobs=in_float64(world.log_old, world.batch))
        credit = TokenCredit(advantages=advantages, weights=world.weights)
        metrics = student.learn(ScoredBatch(batch=batch, anchor_head=None), credit, lrs=[1.0])
        handle.remove()
        found.append((student.optimiser.gradients[0], metrics, sum(seen)))
    (ours, metrics, backward), (whole, expected, every) = found
    assert (backward, every) == (2, len(ROLLOUT))
    assert_equal(ours, whole)
    assert metrics == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def test_with_nothing_to_learn_the_gradient_is_zero_and_not_absent(world):
    student = learner(
        world, world.policy, "grpo", "none", scope="credit", updates=1, window="whole", prefix_sharing="never"
    )
    credit = TokenCredit(advantages=torch.zeros(len(ROLLOUT)), weights=world.weights)
    student.learn(ScoredBatch(batch=world.batch, anchor_head=None), credit, lrs=[1.0])
    (gradients,) = student.optimiser.gradients
    assert not any(bool(gradient.any()) for gradient in gradients)


def test_a_penalty_takes_every_row_backward_and_one_of_coefficient_zero_does_not(world):
    student = learner(
        world, world.policy, "grpo", "kl", scope="credit", updates=1, window="whole", prefix_sharing="never"
    )
    credited = torch.tensor([True, False, False, False, False, False])
    trained = world.batch.mask.any(dim=1)
    assert torch.equal(student._has_gradient(world.batch.mask, credited), trained)
    silent = replace(student, penalty=replace(student.penalty, beta=0.0))
    assert silent._has_gradient(world.batch.mask, credited).tolist() == [True] + [False] * 5


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    ("divergence", "placement"),
    [
        ("kl_k1", "reward"),
        ("kl_exact", "reward_to_go"),
        ("kl_topk", "reward_to_go"),
        ("js_topk", "loss_to_go"),
        ("probl2_exact", "loss_to_go"),
        ("probl2_corrected", "loss_to_go"),
        ("kl_k1", "completion"),
    ],
)
def test_a_penalty_in_the_advantages_has_the_naive_gradient(world, divergence, placement, updates):
    settings = {
        "algo": "rloo",
        "divergence": divergence,
        "scope": "credit",
        "updates": updates,
        "window": "whole",
        "prefix_sharing": "never",
    }
    # Before the update the policy is the old one.
    rollout_policy = world.policy if updates == 1 else world.old
    before = learner(world, rollout_policy, **settings)
    before = replace(before, penalty=replace(before.penalty, placement=placement))
    scored = before.rescore(world.batch)
    credit = replace(before.credit(scored, 0), weights=world.weights)
    credit = replace(
        credit,
        signed=signed_credit(
            credit.advantages, world.weights, scored.divergence, scored.batch.mask, penalty=before.penalty
        ),
    )
    batch = scored.batch
    if updates > 1:
        batch = batch.with_(old_logprobs=in_float64(world.log_old, batch))
    if before.penalty.in_loss and before.penalty.reads in ("sampled", "top"):
        batch = batch.with_(anchor_logprobs=in_float64(world.log_reference, batch))
    student = replace(learner(world, world.policy, **settings), penalty=before.penalty)
    student.learn(replace(scored, batch=batch), credit, lrs=[1.0] * updates)
    expected = naive_placed_gradient(world, divergence, placement, updates)
    for ours in student.optimiser.gradients:
        assert_equal(ours, expected)


def naive_placed_gradient(world: World, divergence: str, placement: str, updates: int) -> list[Tensor]:
    """RLOO's gradient, the penalty taken from each token's advantage by loops."""
    rows = [*range(len(ROLLOUT))]
    table = naive_table(world, divergence, updates, rows)
    log_old = [log_p.detach() for log_p in world.log_p] if updates == 1 else world.log_old
    measure = oracles.DIVERGENCES[divergence]
    old = []
    for row, (_, completion, _, _) in enumerate(ROLLOUT):
        terms = []
        for place, token in enumerate(completion):
            log_p, log_q = (list(tables[row][place]) for tables in (log_old, world.log_reference))
            terms.append(
                float(measure(log_p, log_q, token, log_p[token])) if table["mask"][row][place] else 0.0
            )
        old.append(terms)
    rewards = [row[3] for row in ROLLOUT]
    if placement == "completion":
        rewards = [reward - BETA * sum(terms) for reward, terms in zip(rewards, old, strict=True)]
    advantages = oracles.ALGORITHMS["rloo"][0](rewards, [row[2] for row in ROLLOUT])
    taken = {
        "reward": lambda terms, t: terms[t],
        "reward_to_go": lambda terms, t: sum(terms[t:]),
        "loss_to_go": lambda terms, t: sum(terms[t + 1 :]),
        "completion": lambda terms, t: 0.0,
    }[placement]
    total = []
    for row in rows:
        credits = []
        for t, counted in enumerate(table["mask"][row]):
            if not counted:
                credits.append(None)
                continue
            advantage = table["weights"][row][t] * float(advantages[row]) - BETA * taken(old[row], t)
            token = oracles.Token(table["logprobs"][row], table["old_logprobs"][row], table["mask"][row], t)
            loss = oracles.ALGORITHMS["rloo"][1](token, advantage)
            credits.append(loss + (BETA * table["divergences"][row][t] if placement == "loss_to_go" else 0.0))
        total.append(credits)
    loss = oracles.ALGORITHMS["rloo"][2](total, table["mask"], LONGEST)
    return list(torch.autograd.grad(loss, list(world.policy.parameters()), retain_graph=True))


@pytest.mark.parametrize(("over", "bound"), [("binary", 0.002), ("top", 0.01), ("vocabulary", 0.02)])
def test_a_trust_region_takes_the_naive_tokens_out_of_the_update(world, over, bound):
    region = DivergenceRegion(
        divergence=ExactBregman(potential=NegativeEntropy(), direction="reverse"),
        over=over,
        k=2,
        low=bound,
        high=bound,
    )
    settings = {
        "algo": "rloo",
        "divergence": "none",
        "scope": "credit",
        "updates": 2,
        "window": "whole",
        "prefix_sharing": "never",
    }
    before = replace(learner(world, world.old, **settings), trust_region=region)
    scored = before.rescore(world.batch)
    batch = scored.batch.with_(old_logprobs=in_float64(world.log_old, scored.batch))
    advantages = before.algo.advantages(batch)
    student = replace(learner(world, world.policy, **settings), trust_region=region)
    credit = TokenCredit(advantages=advantages, weights=world.weights)
    metrics = student.learn(replace(scored, batch=batch), credit, lrs=[1.0, 1.0])
    table = naive_table(world, "none", 2, [*range(len(ROLLOUT))])
    total, kept = [], []
    for row, (_, completion, _, _) in enumerate(ROLLOUT):
        credits = []
        for t, counted in enumerate(table["mask"][row]):
            if not counted:
                credits.append(None)
                continue
            old, live = world.log_old[row][t], world.log_p[row][t].detach()
            away = float(advantages[row] * (live[completion[t]] - old[completion[t]])) > 0
            if over != "vocabulary":
                likely = old.topk(2).indices.tolist() if over == "top" else []
                single = sorted({*likely, completion[t]})
                old, live = (
                    torch.cat([values[single], (1 - values[single].exp().sum()).log()[None]])
                    for values in (old, live)
                )
            distance = float((old.exp() * (old - live)).sum())
            kept.append(not (away and distance > bound))
            token = oracles.Token(table["logprobs"][row], table["old_logprobs"][row], table["mask"][row], t)
            loss = oracles.ALGORITHMS["rloo"][1](token, float(advantages[row]))
            credits.append(float(kept[-1]) * table["weights"][row][t] * loss)
        total.append(credits)
    assert 0 < sum(kept) < len(kept)
    assert 0 < metrics["trust_region/masked"] < 1 and metrics["trust_region/distance"] > 0
    loss = oracles.ALGORITHMS["rloo"][2](total, table["mask"], LONGEST)
    expected = list(torch.autograd.grad(loss, list(world.policy.parameters()), retain_graph=True))
    for ours in student.optimiser.gradients:
        assert_equal(ours, expected)


CONTROLS = {
    "exact": Bonus(estimator="exact", coefficient=BETA),
    "sampled": Bonus(estimator="sampled", coefficient=BETA),
    "clip": Covariance(method="clip", share=1.0, low=0.2, high=9.0, beta=0.0),
    "kl": Covariance(method="kl", share=0.25, low=0.0, high=1.0, beta=BETA),
}


def entropy_gradients(world: World, control: Any, updates: int, prefix_sharing: str = "never") -> Any:
    """GRPO's under an entropy control, with token weights: each update's, and the metrics."""
    settings = {
        "algo": "grpo",
        "divergence": "none",
        "scope": "credit",
        "updates": updates,
        "window": "whole",
        "prefix_sharing": prefix_sharing,
    }
    term = EntropyTerm(control=control).at_step({}, 0)
    before = replace(learner(world, world.policy if updates == 1 else world.old, **settings), entropy=term)
    scored = before.rescore(world.batch)
    batch = scored.batch
    if updates > 1:
        batch = batch.with_(old_logprobs=in_float64(world.log_old, batch))
    student = replace(learner(world, world.policy, **settings), entropy=term)
    advantages = student.algo.advantage(batch.rewards, batch.group)
    credit = TokenCredit(advantages=advantages, weights=world.weights)
    metrics = student.learn(replace(scored, batch=batch), credit, lrs=[1.0] * updates)
    return student.optimiser.gradients, metrics


def naive_entropy_gradient(world: World, name: str, updates: int) -> tuple[list[Tensor], int]:
    """GRPO's by loops, and how many tokens are held; means and shares are of the entire update."""
    table = naive_table(world, "none", updates, [*range(len(ROLLOUT))])
    advantages = oracles.ALGORITHMS["grpo"][0]([row[3] for row in ROLLOUT], [row[2] for row in ROLLOUT])
    places = [(r, t) for r, counted in enumerate(table["mask"]) for t, of in enumerate(counted) if of]
    live = {(r, t): float(table["logprobs"][r][t].detach()) for r, t in places}
    gained = {(r, t): table["weights"][r][t] * float(advantages[r]) for r, t in places}
    means = [sum(values.values()) / len(places) for values in (live, gained)]
    cov = {place: (live[place] - means[0]) * (gained[place] - means[1]) for place in places}
    token = {
        (r, t): oracles.Token(table["logprobs"][r], table["old_logprobs"][r], table["mask"][r], t)
        for r, t in places
    }
    loss = {place: oracles.ALGORITHMS["grpo"][1](token[place], gained[place]) for place in places}
    held: list[tuple[int, int]] = []
    if name == "clip":
        # A clipped token's loss is a constant, which the loops give as a number.
        held = [
            place
            for place in places
            if 0.2 < cov[place] < 9 and (isinstance(loss[place], Tensor) or gained[place] == 0)
        ]
    if name == "kl":
        held = sorted(places, key=lambda place: -cov[place])[: int(0.25 * len(places))]
    total = []
    for r, counted in enumerate(table["mask"]):
        credits = []
        for t, of in enumerate(counted):
            if not of:
                credits.append(None)
                continue
            log_p = world.log_p[r][t]
            value = loss[r, t]
            if name == "exact":
                value = value + BETA * (log_p.exp() * log_p).sum()
            if name == "sampled":
                old = float(torch.as_tensor(table["old_logprobs"][r][t]))
                value = oracles.ALGORITHMS["grpo"][1](token[r, t], gained[r, t] - BETA * old)
            if (r, t) in held:
                log_ratio = table["logprobs"][r][t] - table["old_logprobs"][r][t]
                value = 0.0 * value if name == "clip" else value + BETA * log_ratio.abs()
            credits.append(value)
        total.append(credits)
    mean = oracles.ALGORITHMS["grpo"][2](total, table["mask"], LONGEST)
    return list(torch.autograd.grad(mean, list(world.policy.parameters()), retain_graph=True)), len(held)


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("name", CONTROLS)
def test_an_entropy_control_has_the_naive_gradient_over_all_micro_batches(world, name, updates):
    expected, held = naive_entropy_gradient(world, name, updates)
    plain = naive_gradient(world, "grpo", "none", updates=updates)
    differs = any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(expected, plain, strict=True))
    assert differs == ((name, updates) != ("kl", 1))
    trained = int(world.batch.mask.sum())
    for sharing in ("never", "always"):
        ours, metrics = entropy_gradients(world, CONTROLS[name], updates, sharing)
        assert len(ours) == updates
        for gradient in ours:
            assert_equal(gradient, expected)
        if name in ("clip", "kl"):
            assert 0 < held < trained and metrics["entropy/held"] == pytest.approx(held / trained)
            assert metrics["entropy/covariance_max"] > 0.2
        else:
            assert not {"entropy/held", "entropy/covariance"} & metrics.keys()


def test_a_gain_takes_every_row_backward_and_held_tokens_their_own(world):
    student = learner(
        world, world.policy, "grpo", "none", scope="credit", updates=1, window="whole", prefix_sharing="never"
    )
    credited = torch.tensor([True, False, False, False, False, False])
    trained = world.batch.mask.any(dim=1)
    for name, every in (("exact", True), ("sampled", True), ("clip", False)):
        term = EntropyTerm(control=CONTROLS[name]).at_step({}, 0)
        rows = replace(student, entropy=term)._has_gradient(world.batch.mask, credited)
        assert torch.equal(rows, trained if every else credited), name
    held = torch.zeros_like(world.batch.mask)
    held[2, 0] = True
    credit = TokenCredit(advantages=credited.double(), weights=world.weights, held=held)
    assert credit.acts(torch.arange(6)).tolist() == [True, False, True, False, False, False]
    assert replace(credit, held=None).acts(torch.arange(6)).tolist() == credited.tolist()


@pytest.mark.parametrize("updates", [1, 2])
def test_entropy_controls_without_an_effect_are_none_to_the_bit(world, updates):
    plain, metrics = entropy_gradients(world, NO_ENTROPY_CONTROL, updates)
    for estimator in ("exact", "sampled"):
        ours, its = entropy_gradients(world, Bonus(estimator=estimator, coefficient=0.0), updates)
        assert its == metrics and all(
            torch.equal(a, b) for pair in zip(ours, plain, strict=True) for a, b in zip(*pair, strict=True)
        )
    # One that holds no token.
    ours, _ = entropy_gradients(world, replace(CONTROLS["clip"], low=90.0, high=99.0), updates)
    assert all(
        torch.equal(a, b) for pair in zip(ours, plain, strict=True) for a, b in zip(*pair, strict=True)
    )


# ---------------------------------------------------------------- the likeliest tokens


def top_gradients(world: World, updates: int, **changes: Any) -> tuple[list[Tensor], float]:
    """Gradient and divergence of `kl_topk` with other settings, against the reference."""
    penalty = build_penalty(settings_of("kl_topk", beta=BETA, **changes))
    return gradients_of(world, penalty, updates)


def gradients_of(world: World, penalty: Penalty, updates: int) -> tuple[list[Tensor], float]:
    settings = {"scope": "credit", "updates": updates, "window": "whole", "prefix_sharing": "never"}
    student = replace(learner(world, world.policy, "grpo", "kl_exact", **settings), penalty=penalty)
    scored = student.rescore(world.batch)
    batch = scored.batch
    if updates > 1:
        batch = batch.with_(old_logprobs=in_float64(world.log_old, batch))
    batch = batch.with_(anchor_logprobs=in_float64(world.log_reference, batch))
    credit = TokenCredit(advantages=student.algo.advantages(batch), weights=world.weights)
    metrics = student.learn(replace(scored, batch=batch), credit, lrs=[1.0] * updates)
    return student.optimiser.gradients[0], metrics["divergence/value"]


@pytest.mark.parametrize("updates", [1, 2])
def test_no_token_all_tokens_and_the_policys_own_are_read_as_they_say(world, updates):
    corrected, exact = (
        gradients_of(world, build_penalty(settings_of(name, beta=BETA)), updates)
        for name in ("kl_corrected", "kl_exact")
    )
    none, every = (top_gradients(world, updates, k=k) for k in (0, 11))
    assert all(map(torch.equal, none[0], corrected[0])) and none[1] == corrected[1]
    # Products over other numbers of positions round otherwise.
    assert_equal(every[0], exact[0])
    assert every[1] == pytest.approx(exact[1], rel=1e-6)
    # Eleven tokens of the policy are those of the anchor; three are others.
    assert_equal(top_gradients(world, updates, k=11, of="policy")[0], exact[0])
    few, others = (top_gradients(world, updates, k=3, of=of) for of in ("anchor", "policy"))
    assert few[1] != others[1]
    expected = naive_top_of_policy(world, updates, k=3)
    assert others[1] == pytest.approx(expected, rel=1e-6)


def naive_top_of_policy(world: World, updates: int, k: int) -> float:
    """The mean of the estimate over trained tokens, summed at the policy's k likeliest."""
    values = []
    for row, (_, completion, _, reward) in enumerate(ROLLOUT):
        for place, token in enumerate(completion):
            if reward != reward or (row, place) == (3, 2):
                continue
            log_p, log_q = world.log_p[row][place].detach(), world.log_reference[row][place]
            log_old = log_p if updates == 1 else world.log_old[row][place]
            terms = log_p.exp() * (log_p - log_q) - log_p.exp() + log_q.exp()
            top = log_p.topk(k).indices.tolist()
            rest = 0.0 if token in top else float(terms[token] / log_old[token].exp())
            values.append(float(terms[top].sum()) + rest)
    return sum(values) / len(values)
