"""Mirror descent on a group's own simplex, against its definition."""

import pytest
import torch
from cli import SMALL, cell_here, folders, rows, succeeded, train
from omegaconf import OmegaConf
from rows import CONF, names, settings_of

from mirrorpo.algo.group_target import GroupTarget
from mirrorpo.divergence.bregman import ExactBregman
from mirrorpo.divergence.chi2 import ChiSquare
from mirrorpo.divergence.kl import K1
from mirrorpo.divergence.neural_mirror import NeuralMirror, RandomParameters
from mirrorpo.divergence.potentials import NegativeEntropy, Square
from mirrorpo.train.build import build_components

FORWARD_KL = ExactBregman(potential=NegativeEntropy(), direction="forward")
NEURAL = ExactBregman(
    potential=NeuralMirror(parameters=RandomParameters(seed=42, scale=0.01, signed=False)),
    direction="forward",
)
DIVERGENCES = {
    "kl": FORWARD_KL,
    "reverse kl": ExactBregman(potential=NegativeEntropy(), direction="reverse"),
    "probl2": ExactBregman(potential=Square(factor=1.0), direction="forward"),
    "neural": NEURAL,
    "chi2": ChiSquare(),
}
GROUP = torch.tensor([7, 3, 7, 7, 3])
LENGTHS = torch.tensor([2, 4, 3, 1, 5])
divergences = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=[*DIVERGENCES])


def draw(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, dtype=torch.float64, generator=generator) for _ in range(3))


def target(divergence, tau=0.7, base="uniform", length="sum") -> GroupTarget:
    return GroupTarget(divergence=divergence, tau=tau, base=base, length=length)


@divergences
@pytest.mark.parametrize("base", ["uniform", "likelihood"])
@pytest.mark.parametrize("length", ["sum", "mean"])
def test_the_loss_on_log_probabilities_has_the_gradient_of_the_divergence_to_the_target(
    divergence, base, length
):
    advantages, old, live = draw()
    ours = target(divergence, base=base, length=length)(advantages, old, live, LENGTHS, GROUP)
    leaf = live.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for group in (7, 3):
        rows = (group == GROUP).nonzero().flatten()
        scale = LENGTHS[rows].double() if length == "mean" else torch.ones(len(rows), dtype=torch.float64)
        start = old[rows] / scale
        base_logits = start if base == "likelihood" else torch.zeros_like(start)
        q = (base_logits.exp() * (advantages[rows] / 0.7).exp()) / (
            base_logits.exp() * (advantages[rows] / 0.7).exp()
        ).sum()
        p = (base_logits + leaf[rows] / scale - start).softmax(0)
        total = total + len(rows) * divergence(p.log()[None], q.log()[None], p.detach().log()[None]).sum()
    torch.testing.assert_close(-ours, torch.autograd.grad(total, leaf)[0], rtol=1e-9, atol=1e-12)


@divergences
def test_the_target_is_stationary(divergence):
    advantages, old, _ = draw()
    ours = target(divergence)(advantages, old, old + advantages / 0.7, LENGTHS, GROUP)
    torch.testing.assert_close(ours, torch.zeros_like(ours), rtol=0, atol=1e-9)


def test_one_small_step_with_negative_entropy_is_the_policy_gradient_to_first_order():
    advantages, old, _ = draw()
    centred = advantages.clone()
    for group in (7, 3):
        centred[group == GROUP] -= advantages[group == GROUP].mean()
    errors = []
    for tau in (1e2, 1e3, 1e4):
        ours = target(FORWARD_KL, tau=tau)(advantages, old, old, LENGTHS, GROUP)
        errors.append(float((tau * ours - centred).abs().max()))
    # The next term is of order 1 / tau.
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.05)


@divergences
def test_it_sums_to_zero_over_a_group_and_a_constant_on_its_advantages_changes_nothing(divergence):
    advantages, old, live = draw()
    ours = target(divergence)(advantages, old, live, LENGTHS, GROUP)
    for group in (7, 3):
        assert float(ours[group == GROUP].sum()) == pytest.approx(0, abs=1e-9)
    moved = advantages + torch.where(GROUP == 7, 3.0, -1.0)
    torch.testing.assert_close(target(divergence)(moved, old, live, LENGTHS, GROUP), ours)


def test_a_group_of_one_has_nothing_to_move():
    lone = torch.tensor([1.3], dtype=torch.float64)
    assert not bool(target(FORWARD_KL)(lone, lone, lone - 1, torch.tensor([3]), torch.tensor([0])).any())


def test_a_step_without_size_and_a_divergence_at_a_token_are_refused():
    with pytest.raises(ValueError, match=r"algo\.update_advantage\.tau=0"):
        target(FORWARD_KL, tau=0.0)
    with pytest.raises(ValueError, match=r"algo\.update_advantage\.divergence=K1"):
        target(K1())


# The groups on the command line.

POTENTIAL = "potential@algo.update_advantage.divergence.potential"


def test_every_convex_potential_that_is_summed_over_the_vocabulary_can_be_chosen():
    nodes = [OmegaConf.load(CONF / "potential" / f"{name}.yaml") for name in names("potential")]
    for divergence in names("divergence"):
        settings = settings_of(divergence)
        if settings["_target_"].endswith(".ExactBregman"):
            assert OmegaConf.create(settings["potential"]) in nodes, f"conf/potential: {divergence}"


@pytest.mark.parametrize("name", names("potential"))
def test_a_potential_is_chosen_by_its_name_and_is_convex(name):
    cell = cell_here("algo=mirror_descent", f"{POTENTIAL}={name}")
    target = build_components(cell.config).algo.update_advantage
    assert isinstance(target, GroupTarget) and isinstance(target.divergence, ExactBregman)
    assert target.divergence.potential.convex and target.divergence.direction == "forward"
    advantages, old, live = draw()
    assert bool(target(advantages, old, live, LENGTHS, GROUP).abs().max() > 0)


def test_the_default_is_negative_entropy_under_the_name_that_it_had():
    assert cell_here("algo=mirror_descent").hash == "ae94ec6f6782b4bb"
    assert cell_here("algo=mirror_descent", f"{POTENTIAL}=negative_entropy").hash == "ae94ec6f6782b4bb"


def test_a_step_is_trained_in_every_potential_and_each_is_its_own(tmp_path):
    chosen = f"{POTENTIAL}={','.join(names('potential'))}"
    few = ("steps=1", "updates_per_rollout=2", "eval_questions=0", "eval_sampled_questions=0")
    settings = ("algo=mirror_descent", chosen, *few, f"out={tmp_path}")
    succeeded(train("-m", *SMALL, *settings, cwd=tmp_path))
    last = [rows(run / "metrics.jsonl")[-1] for run in folders(tmp_path)]
    assert [row["step"] for row in last] == [1] * len(names("potential"))
    assert len({row["grad/norm"] for row in last}) == len(last) and all(row["grad/norm"] > 0 for row in last)
