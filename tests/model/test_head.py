"""The head read by chunks against the full [N, V] log-softmax: value, gradient, memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirrorpo.model import head as module
from mirrorpo.model.anchored import VocabularyReader
from mirrorpo.model.head import Head, HeadOutputs, read_positions

N, D, V = 7, 4, 11
CHUNKS = (1, 3, N, 100)
TRANSFORMS = pytest.mark.parametrize(
    ("softcap", "scale", "temperature"),
    [(None, 1.0, 1.0), (None, 1.0, 0.6), (2.0, 1.0, 1.0), (None, 0.25, 1.3), (1.5, 3.0, 0.7)],
    ids=["plain", "temperature", "softcap", "scale", "all"],
)


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # A vocabulary of eleven would never be large enough for logits to be made again.
    monkeypatch.setattr(module, "KEPT", 0)


def random(*shape: int, seed: int, spread: float = 1.5) -> Tensor:
    return spread * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_head(
    seed: int,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    *,
    bias: bool = True,
) -> Head:
    projection = torch.nn.Linear(D, V, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.copy_(random(*parameter.shape, seed=seed))
    return Head(projection=projection, softcap=softcap, scale=scale, temperature=temperature)


def full(head: Head, hidden: Tensor) -> Tensor:
    """Log-probabilities from the definition, without `Head`."""
    logits = (hidden @ head.projection.weight.T + head.projection.bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    scaled = logits / head.temperature
    return scaled - scaled.exp().sum(dim=1, keepdim=True).log()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@dataclass
class Case:
    head: Head
    hidden: Tensor
    tokens: Tensor
    anchor_head: Head
    anchor_hidden: Tensor

    def read(self, logit_chunk: int, reader: Callable[[Tensor, Tensor], Tensor] | None = None) -> HeadOutputs:
        return read_positions(
            self.head,
            self.hidden,
            self.tokens,
            logit_chunk=logit_chunk,
            reader=None if reader is None else self.beside_anchor(reader),
        )

    def beside_anchor(self, reader: Callable[[Tensor, Tensor], Tensor]) -> VocabularyReader:
        return VocabularyReader(
            reader=reader, gradient=None, head=self.anchor_head, hidden=self.anchor_hidden
        )

    def gradients(self, value: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(value, [self.hidden, *self.head.projection.parameters()]))


def case(softcap: float | None = None, scale: float = 1.0, temperature: float = 1.0, count: int = N) -> Case:
    return Case(
        head=make_head(1, softcap, scale, temperature),
        hidden=random(count, D, seed=2).requires_grad_(),
        tokens=torch.randint(V, (count,), generator=torch.Generator().manual_seed(3)),
        anchor_head=make_head(4, softcap, scale, temperature),
        anchor_hidden=random(count, D, seed=5).requires_grad_(),
    )


@TRANSFORMS
def test_logprobs_are_those_of_the_full_log_softmax(
    softcap: float | None, scale: float, temperature: float
) -> None:
    c = case(softcap, scale, temperature)
    expected = full(c.head, c.hidden)[torch.arange(N), c.tokens]
    for logit_chunk in CHUNKS:
        torch.testing.assert_close(c.read(logit_chunk).logprobs, expected, rtol=1e-12, atol=1e-12)


@TRANSFORMS
def test_gradient_of_the_logprobs_is_that_of_the_full_log_softmax(
    softcap: float | None, scale: float, temperature: float
) -> None:
    c = case(softcap, scale, temperature)
    factors = random(N, seed=6)
    expected = c.gradients((full(c.head, c.hidden)[torch.arange(N), c.tokens] * factors).sum())
    for logit_chunk in CHUNKS:
        ours = c.gradients((c.read(logit_chunk).logprobs * factors).sum())
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@TRANSFORMS
@pytest.mark.parametrize("kept", [0, 2**24])
def test_a_frozen_head_passes_the_same_gradient_to_the_hidden_states(
    kept: int, softcap: float | None, scale: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    c, factors = case(softcap, scale, temperature), random(2, N, seed=6)

    def gradient() -> Tensor:
        head_outputs = c.read(3, kl)
        return torch.autograd.grad(
            (factors * torch.stack([head_outputs.logprobs, head_outputs.reader_output])).sum(), c.hidden
        )[0]

    expected = gradient()
    c.head.projection.requires_grad_(False)
    torch.testing.assert_close(gradient(), expected, rtol=1e-12, atol=1e-12)


@TRANSFORMS
def test_an_exact_divergence_is_that_over_the_full_vocabulary(
    softcap: float | None, scale: float, temperature: float
) -> None:
    c = case(softcap, scale, temperature)
    expected = kl(full(c.head, c.hidden), full(c.anchor_head, c.anchor_hidden))
    for logit_chunk in CHUNKS:
        torch.testing.assert_close(c.read(logit_chunk, kl).reader_output, expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_an_exact_divergence_is_that_over_the_full_vocabulary() -> None:
    c = case(softcap=1.5, scale=3.0, temperature=0.7)
    factors = random(N, seed=6)
    expected = c.gradients((kl(full(c.head, c.hidden), full(c.anchor_head, c.anchor_hidden)) * factors).sum())
    for logit_chunk in CHUNKS:
        ours = c.gradients((c.read(logit_chunk, kl).reader_output * factors).sum())
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def projecting(weight: Tensor) -> torch.nn.Linear:
    """A projection whose weight is this very tensor, so that a gradient can be taken to it."""
    projection = torch.nn.Linear(D, V, bias=False)
    del projection.weight
    projection.weight = weight
    return projection


def test_logprobs_and_divergence_pass_gradcheck() -> None:
    c = case()

    def outputs(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        head = Head(projection=projecting(weight), softcap=1.5, scale=0.5, temperature=0.7)
        head_outputs = read_positions(
            head,
            hidden,
            c.tokens,
            logit_chunk=3,
            reader=c.beside_anchor(kl),
        )
        return head_outputs.logprobs, head_outputs.reader_output

    assert torch.autograd.gradcheck(outputs, (c.hidden, c.head.projection.weight.detach().requires_grad_()))


def test_the_anchor_gets_no_gradient() -> None:
    c = case()
    c.read(3, kl).reader_output.sum().backward()
    assert c.anchor_hidden.grad is None
    assert all(parameter.grad is None for parameter in c.anchor_head.projection.parameters())


def test_entropy_is_minus_the_expected_log_probability() -> None:
    c = case(softcap=1.5, scale=3.0, temperature=0.7)
    log_p = full(c.head, c.hidden)
    expected = -(log_p.exp() * log_p).sum(dim=1).detach()
    for logit_chunk in CHUNKS:
        torch.testing.assert_close(c.read(logit_chunk).entropy, expected, rtol=1e-12, atol=1e-12)


def test_entropy_has_no_gradient() -> None:
    assert not case().read(3).entropy.requires_grad


def test_entropy_of_a_certain_token_is_zero_not_nan() -> None:
    c = case(scale=1e6)
    torch.testing.assert_close(c.read(3).entropy, torch.zeros(N, dtype=torch.float64))


def test_without_a_reader_the_reading_is_zero() -> None:
    assert not case().read(3).reader_output.any()


@pytest.mark.parametrize("grad", [True, False])
def test_no_positions_give_empty_readings(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        head_outputs = case(count=0).read(3, kl)
    assert (
        head_outputs.logprobs.shape == head_outputs.entropy.shape == head_outputs.reader_output.shape == (0,)
    )


def test_no_positions_stay_connected_with_a_zero_gradient() -> None:
    c = case(count=0)
    before = random(2, D, seed=7).requires_grad_()
    head_outputs = read_positions(c.head, before[:0], c.tokens, logit_chunk=3)
    (head_outputs.logprobs.sum() + head_outputs.reader_output.sum()).backward()
    assert before.grad is not None
    assert not before.grad.any()


def test_values_are_the_same_with_and_without_gradient() -> None:
    c = case()
    for logit_chunk in CHUNKS:
        with torch.no_grad():
            silent = c.read(logit_chunk, kl)
        live = c.read(logit_chunk, kl)
        assert torch.equal(silent.logprobs, live.logprobs), logit_chunk
        assert torch.equal(silent.reader_output, live.reader_output), logit_chunk
        assert not silent.logprobs.requires_grad, logit_chunk


def test_logprobs_are_of_the_sampling_temperature() -> None:
    head = make_head(1, temperature=0.5)
    hidden = random(N, D, seed=2)
    squared = make_head(1)(hidden).exp().square()
    torch.testing.assert_close(head(hidden).exp(), squared / squared.sum(dim=1, keepdim=True))


def test_logits_leave_the_temperature_out() -> None:
    hidden = random(N, D, seed=2)
    assert torch.equal(make_head(1, temperature=0.5).logits(hidden), make_head(1).logits(hidden))


def test_softcap_bounds_the_logits() -> None:
    assert bool((make_head(1, softcap=2.0, scale=1e3).logits(random(N, D, seed=2)).abs() <= 2.0).all())


def test_half_precision_gives_float32_readings() -> None:
    c = case()
    head = Head(
        projection=torch.nn.Linear(D, V, dtype=torch.bfloat16), softcap=None, scale=1.0, temperature=1.0
    )
    head_outputs = read_positions(head, c.hidden.detach().bfloat16(), c.tokens, logit_chunk=3)
    assert head_outputs.logprobs.dtype == head_outputs.entropy.dtype == torch.float32


def test_a_half_precision_head_does_not_round_its_logits() -> None:
    c = case()
    projection = torch.nn.Linear(D, V, dtype=torch.bfloat16)
    hidden = (4 * c.hidden.detach()).bfloat16()
    ours = Head(projection=projection, softcap=None, scale=1.0, temperature=1.0).logits(hidden)
    exact = torch.nn.functional.linear(hidden.double(), projection.weight.double(), projection.bias.double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


class Sizes(TorchDispatchMode):
    """Largest result of any operation, and which logits are still held by somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.logits: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                if tensor.ndim == 2 and tensor.shape[1] == V and tensor.shape[0] > D:
                    self.logits.append(StorageWeakRef(tensor.untyped_storage()))
        return result

    def held(self) -> int:
        """How many tensors over positions and vocabulary are alive now."""
        return len({ref.cdata for ref in self.logits if not ref.expired()})


class Calls(TorchDispatchMode):
    """The names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


ROWS, TILE = 96, 32
HEIGHT = TILE // 4  # with a reader


def test_nothing_of_size_n_by_v_is_made_forward_or_backward() -> None:
    c = case(count=ROWS)
    with Sizes() as sizes:
        head_outputs = c.read(TILE, kl)
        (head_outputs.logprobs.sum() + head_outputs.reader_output.sum()).backward()
    assert sizes.largest == max(ROWS * D, HEIGHT * V)


@pytest.mark.parametrize(
    ("reader", "height"), [(None, TILE), (kl, HEIGHT)], ids=["without a reader", "with a reader"]
)
def test_nothing_of_size_n_by_v_is_made_without_gradient(
    reader: Callable[[Tensor, Tensor], Tensor] | None, height: int
) -> None:
    c = case(count=ROWS)
    with Sizes() as sizes, torch.no_grad():
        c.read(TILE, reader)
    assert sizes.largest == max(ROWS, height * V)


@pytest.mark.parametrize(
    ("kept", "frozen", "outlive"),
    [(0, False, 1), (2 * TILE * V, False, 2), (0, True, 0), (2 * TILE * V, True, 0)],
)
def test_how_many_tiles_outlive_the_forward(
    kept: int, frozen: bool, outlive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    c = case(count=ROWS)
    c.head.projection.requires_grad_(not frozen)
    with Sizes() as sizes:
        head_outputs = c.read(TILE)
        held = sizes.held()
    assert len(sizes.logits) > ROWS // TILE
    assert held == outlive
    assert head_outputs.logprobs.requires_grad


@pytest.mark.parametrize(("kept", "frozen"), [(ROWS * V, False), (0, True)])
def test_few_logits_and_those_of_a_frozen_head_are_not_made_again(
    kept: int, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    c = case(count=ROWS)
    c.head.projection.requires_grad_(not frozen)
    head_outputs = c.read(TILE)
    with Calls() as calls:
        head_outputs.logprobs.sum().backward()
    assert c.hidden.grad is not None
    assert "aten::_log_softmax" not in calls.names


def test_the_entropy_is_not_taken_again_in_the_backward_pass() -> None:
    c = case(count=ROWS)
    head_outputs = c.read(TILE)
    with Calls() as calls:
        head_outputs.logprobs.sum().backward()
    assert "aten::_log_softmax" in calls.names
    assert "aten::exp" not in calls.names


def test_the_size_recorder_sees_a_full_log_softmax() -> None:
    c = case(count=ROWS)
    with Sizes() as sizes:
        log_p = full(c.head, c.hidden)
        held = sizes.held()
    assert sizes.largest == ROWS * V
    assert held > 0
    assert log_p.requires_grad
