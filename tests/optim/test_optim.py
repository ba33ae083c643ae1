"""Schedules by hand, AdamW against torch's, Muon's orthogonal updates, and resuming bit for bit."""

import copy
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.core.protocols import Optimiser
from mirrorpo.optim.adamw import AdamW
from mirrorpo.optim.muon import Muon, OrthogonalMomentum, orthogonal
from mirrorpo.optim.schedule import Schedule

ADAMW = AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.1)
MUON = Muon(momentum=0.95, iterations=5, rest_factor=0.25)
BOTH = pytest.mark.parametrize("spec", [ADAMW, MUON], ids=["adamw", "muon"])


def schedule(shape: Any, warmup: float = 0.0, decay_from: float = 0.0, floor: float = 0.0) -> Schedule:
    return Schedule(shape=shape, warmup=warmup, decay_from=decay_from, floor=floor)


def factors(chosen: Schedule, updates: int) -> list[float]:
    return [chosen.factor(update, updates) for update in range(updates)]


def test_factors_of_four_updates_by_hand() -> None:
    for chosen, expected in (
        (schedule("constant"), [1, 1, 1, 1]),
        (schedule("constant", warmup=0.5), [0.5, 1, 1, 1]),
        (schedule("constant", warmup=0.75), [1 / 3, 2 / 3, 1, 1]),
        (schedule("constant", warmup=0.2), [1, 1, 1, 1]),  # less than one update
        (schedule("constant", floor=0.3), [1, 1, 1, 1]),
        (schedule("linear"), [1, 0.75, 0.5, 0.25]),
        (schedule("linear", floor=0.2), [1, 0.8, 0.6, 0.4]),
        (schedule("linear", decay_from=0.5), [1, 1, 1, 0.5]),
        (schedule("linear", decay_from=1.0), [1, 1, 1, 1]),
        (schedule("linear", warmup=0.5, decay_from=0.5), [0.5, 1, 1, 0.5]),
        (schedule("linear", warmup=0.5), [0.5, 0.75, 0.5, 0.25]),
        (schedule("linear", warmup=0.75), [1 / 3, 2 / 3 * 0.75, 0.5, 0.25]),  # rising and falling at once
        (schedule("linear", floor=1.0), [1, 1, 1, 1]),
        (schedule("cosine"), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        (
            schedule("cosine", floor=0.2),
            [1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5))],
        ),
        (schedule("cosine", decay_from=0.5), [1, 1, 1, 0.5]),
    ):
        assert factors(chosen, 4) == pytest.approx(expected), chosen


def test_on_cuda_adamw_is_one_kernel_and_elsewhere_torchs_own_choice() -> None:
    for device, fused in (("cuda", True), ("cpu", None)):
        with FakeTensorMode():
            parameters = torch.nn.ParameterList([torch.nn.Parameter(torch.empty(3, device=device))])
            built = ADAMW.build(parameters)
        (group,) = built.state_dict()["0"]["param_groups"]
        assert group["fused"] is fused, device


shares = st.floats(0, 1)


@given(
    shape=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.floats(0, 0.99),
    decay_from=shares,
    floor=shares,
    updates=st.integers(1, 50),
)
def test_factors_are_positive_shares(
    shape: str, warmup: float, decay_from: float, floor: float, updates: int
) -> None:
    assert all(
        0 < factor <= 1 + 1e-12 for factor in factors(schedule(shape, warmup, decay_from, floor), updates)
    )


@given(
    shape=st.sampled_from(["linear", "cosine"]), decay_from=shares, floor=shares, updates=st.integers(2, 50)
)
def test_without_a_warmup_factors_never_rise(
    shape: str, decay_from: float, floor: float, updates: int
) -> None:
    falling = factors(schedule(shape, 0.0, decay_from, floor), updates)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(falling))


def test_the_fall_ends_at_the_floor() -> None:
    for shape in ("linear", "cosine"):
        assert schedule(shape, floor=0.1).factor(1000, 1000) == pytest.approx(0.1)


def test_a_schedule_out_of_range_is_refused_by_its_name() -> None:
    refused: list[dict[str, Any]] = [
        {"shape": "square"},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"decay_from": 1.1},
        {"floor": 2.0},
    ]
    for setting in refused:
        ((name, value),) = setting.items()
        with pytest.raises(ValueError, match=rf"schedule.*{name}={value}"):
            schedule(**({"shape": "linear"} | setting))


class Network(torch.nn.Module):
    """An embedding, hidden matrices of two shapes, vectors, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6)
        self.up = torch.nn.Linear(6, 10)
        self.down = torch.nn.Linear(10, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.lm_head = torch.nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.norm(self.down(torch.tanh(self.up(self.embedding(ids))))))


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network()


def backward(net: torch.nn.Module, seed: int) -> None:
    ids = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(seed))
    output = net(ids)
    logits = output if isinstance(output, Tensor) else output.logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(1, dims=1).flatten()).backward()


def train(net: torch.nn.Module, optimiser: Optimiser, seeds: Sequence[int], lr: float = 0.01) -> None:
    for seed in seeds:
        backward(net, seed)
        optimiser.step(lr * (1 + seed))
        optimiser.zero_grad()


def moved(spec: AdamW | Muon, lr: float, net: torch.nn.Module | None = None) -> dict[str, Tensor]:
    """How far one update from a fresh state takes each parameter."""
    net = net or network()
    before = copy.deepcopy(net.state_dict())
    optimiser = spec.build(net)
    backward(net, 0)
    optimiser.step(lr)
    return {name: tensor - before[name] for name, tensor in net.state_dict().items()}


def test_adamw_steps_as_torchs_own() -> None:
    ours, theirs = network(), network()
    train(ours, ADAMW.build(ours), range(5))
    optimiser = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for seed in range(5):
        backward(theirs, seed)
        optimiser.param_groups[0]["lr"] = 0.01 * (1 + seed)
        optimiser.step()
        optimiser.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@BOTH
def test_a_learning_rate_of_zero_changes_nothing(spec: AdamW | Muon) -> None:
    assert not any(delta.any() for delta in moved(spec, 0.0).values())


@BOTH
def test_every_trainable_parameter_moves(spec: AdamW | Muon) -> None:
    assert all(delta.any() for delta in moved(spec, 0.01).values())


@BOTH
def test_a_frozen_parameter_does_not_move(spec: AdamW | Muon) -> None:
    net = network()
    net.up.requires_grad_(False)
    deltas = moved(spec, 0.01, net)
    assert not deltas["up.weight"].any()
    assert deltas["down.weight"].any()


@BOTH
def test_zero_grad_drops_the_gradients(spec: AdamW | Muon) -> None:
    net = network()
    optimiser = spec.build(net)
    backward(net, 0)
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


@BOTH
def test_an_optimiser_keeps_its_promise(spec: AdamW | Muon) -> None:
    assert isinstance(spec.build(network()), Optimiser)


@BOTH
def test_a_restored_optimiser_takes_the_same_steps_bit_for_bit(spec: AdamW | Muon) -> None:
    net = network()
    optimiser = spec.build(net)
    train(net, optimiser, range(3))
    file = io.BytesIO()
    torch.save({"network": net.state_dict(), "optimiser": optimiser.state_dict()}, file)
    train(net, optimiser, range(3, 6))

    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again = network(seed=1)
    again.load_state_dict(saved["network"])
    resumed = spec.build(again)
    resumed.load_state_dict(saved["optimiser"])
    train(again, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@BOTH
def test_the_state_matters_to_the_next_step(spec: AdamW | Muon) -> None:
    # Otherwise the test above would pass with an empty state.
    net = network()
    train(net, spec.build(net), range(3))
    again = copy.deepcopy(net)
    optimiser = spec.build(net)
    train(net, optimiser, range(3, 5))
    train(again, spec.build(again), [3])
    train(again, spec.build(again), [4])
    assert not torch.equal(net.up.weight, again.up.weight)


@BOTH
def test_a_regression_is_solved(spec: AdamW | Muon) -> None:
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Linear(16, 8)
    inputs, target = torch.randn(64, 16, generator=generator), torch.randn(8, 16, generator=generator)
    optimiser = spec.build(net)
    fall = schedule("linear")

    def loss() -> Tensor:
        return (net(inputs) - inputs @ target.T - 1.0).square().mean()

    first = float(loss().detach())
    for update in range(300):
        loss().backward()
        optimiser.step(0.2 * fall.factor(update, 300))
        optimiser.zero_grad()
    assert float(loss().detach()) < 1e-3 * first


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values: Sequence[float], columns: int, seed: int = 0) -> Tensor:
    left, _ = torch.linalg.qr(matrix(len(values), len(values), seed))
    right, _ = torch.linalg.qr(matrix(columns, len(values), seed + 100))
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


SHAPES = pytest.mark.parametrize("shape", [(16, 32), (32, 16), (5, 40)], ids=str)


@SHAPES
def test_singular_values_become_nearly_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonal(matrix(*shape), 5))
    assert float(values.min()) > 0.65
    assert float(values.max()) < 1.25


@SHAPES
def test_singular_vectors_stay(shape: tuple[int, int]) -> None:
    given_matrix = matrix(*shape)
    left, _, right = torch.linalg.svd(given_matrix, full_matrices=False)
    rotated = left.T @ orthogonal(given_matrix, 5) @ right.T
    torch.testing.assert_close(rotated, torch.diag(torch.diag(rotated)), rtol=0, atol=1e-9)
    assert float(torch.diag(rotated).min()) > 0


@pytest.mark.parametrize("smallest", [0.5, 0.1, 0.02])
def test_a_spread_spectrum_becomes_nearly_one(smallest: float) -> None:
    values = torch.linalg.svdvals(orthogonal(with_spectrum([1.0, 0.7, smallest], 8), 5))
    assert float((values - 1).abs().max()) < 0.35


@SHAPES
def test_the_scale_of_a_gradient_does_not_matter(shape: tuple[int, int]) -> None:
    torch.testing.assert_close(
        orthogonal(1e3 * matrix(*shape), 5), orthogonal(matrix(*shape), 5), rtol=1e-4, atol=1e-6
    )


def test_a_transposed_matrix_gives_the_transposed_update() -> None:
    torch.testing.assert_close(orthogonal(matrix(4, 9).T, 5), orthogonal(matrix(4, 9), 5).T)


def test_a_gradient_of_zero_gives_an_update_of_zero() -> None:
    assert not orthogonal(torch.zeros(3, 5), 5).any()


def test_no_iterations_give_the_matrix_at_unit_norm() -> None:
    torch.testing.assert_close(
        orthogonal(matrix(3, 5), 0), matrix(3, 5) / matrix(3, 5).norm(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)], ids=str)
def test_updates_are_near_those_of_torchs_muon(shape: tuple[int, int]) -> None:
    ours, theirs = (torch.nn.Parameter(matrix(*shape).float()) for _ in range(2))
    updater = OrthogonalMomentum([ours], momentum=0.95, iterations=5)
    other = torch.optim.Muon(
        [theirs], lr=0.1, momentum=0.95, nesterov=True, ns_steps=5, weight_decay=0.0, adjust_lr_fn="original"
    )
    updater.param_groups[0]["lr"] = 0.1
    short, long = sorted(shape)
    for seed in range(4):
        gradient = with_spectrum(torch.linspace(1.0, 0.3, short).tolist(), long, seed)
        for parameter in (ours, theirs):
            parameter.grad = (gradient if shape == (short, long) else gradient.T).float().contiguous()
        updater.step()
        other.step()
    # torch computes in bfloat16.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    assert float((ours - matrix(*shape).float()).detach().abs().max()) > 0.1


@pytest.mark.parametrize("name", ["up.weight", "down.weight"])
def test_muon_moves_hidden_matrices_by_a_nearly_orthogonal_step(name: str) -> None:
    delta = moved(MUON, 0.01)[name] / 0.01
    tall = max(1.0, delta.shape[0] / delta.shape[1]) ** 0.5
    # The loss reaches every direction of these matrices, some weakly.
    assert 0.65 < float(torch.linalg.svdvals(delta / tall).max()) < 1.25


@pytest.mark.parametrize("name", ["embedding.weight", "norm.weight", "up.bias", "down.bias"])
def test_muon_moves_everything_else_by_adam_at_its_own_rate(name: str) -> None:
    adam = AdamW(betas=(0.9, 0.95), epsilon=1e-10, weight_decay=0.0)
    torch.testing.assert_close(moved(MUON, 0.01)[name], moved(adam, 0.25 * 0.01)[name], rtol=0, atol=0)


def test_muon_treats_a_tied_head_as_the_embedding_it_is() -> None:
    assert torch.equal(moved(MUON, 0.01)["lm_head.weight"], moved(MUON, 0.01)["embedding.weight"])


def language_model(tied: bool) -> torch.nn.Module:
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    config.update(
        {
            "intermediate_size": 12,
            "tie_word_embeddings": tied,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_muon_leaves_a_language_models_head_and_embeddings_to_adam(name: str, tied: bool) -> None:
    adam = AdamW(betas=(0.9, 0.95), epsilon=1e-10, weight_decay=0.0)
    by_muon, by_adam = (
        moved(spec, lr, language_model(tied))[name] for spec, lr in ((MUON, 0.01), (adam, 0.0025))
    )
    torch.testing.assert_close(by_muon, by_adam, rtol=0, atol=0)


def test_muon_trains_a_network_of_matrices_alone() -> None:
    MUON.build(torch.nn.Linear(4, 3, bias=False))


def test_muon_trains_a_network_without_matrices() -> None:
    MUON.build(torch.nn.Embedding(4, 3))
