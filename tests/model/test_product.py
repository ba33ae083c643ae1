"""The head's product from operands in bfloat16: value, gradients, and what each device is asked for."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mirrorpo.model import product as module
from mirrorpo.model.head import Head, read_positions
from mirrorpo.model.product import factor, product

N, D, V = 24, 16, 40


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half(values: Tensor) -> Tensor:
    """The nearest bfloat16 numbers, in float64."""
    return values.to(torch.bfloat16).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradients_are_exact_products_of_rounded_operands(dtype: torch.dtype) -> None:
    hidden, weight, bias = random(N, D, seed=1).to(dtype), random(V, D, seed=2), random(V, seed=3)
    for tensor in (hidden, weight, bias):
        tensor.requires_grad_()
    upstream = random(N, V, seed=4)
    logits = product(hidden, weight, factor(weight, "bf16_in"), bias)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits.double(), half(hidden) @ half(weight).T + bias.double(), rtol=1e-6, atol=1e-5
    )
    of_hidden, of_weight, of_bias = torch.autograd.grad(logits, [hidden, weight, bias], upstream)
    assert of_hidden.dtype == dtype and of_weight.dtype == torch.float32
    torch.testing.assert_close(of_hidden, (half(upstream) @ half(weight)).to(dtype), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_weight.double(), half(upstream).T @ half(hidden), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_bias, upstream.sum(dim=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outer", [torch.float32, torch.bfloat16])
def test_autocast_around_the_head_changes_nothing(outer: torch.dtype) -> None:
    projection = torch.nn.Linear(D, V)
    hidden = random(N, D, seed=1)
    for precision in ("float32", "bf16_in"):
        head = Head(projection=projection, softcap=None, scale=1.0, temperature=1.0, precision=precision)
        with torch.autocast("cpu", dtype=outer, enabled=outer != torch.float32):
            inside = head.logits(hidden)
        assert inside.dtype == torch.float32 and torch.equal(inside, head.logits(hidden)), precision


def test_it_is_nearer_to_a_sampler_of_bfloat16_weights_than_float32_is() -> None:
    # Logits of standard deviation 4, as `Head` states its cost for.
    width, vocabulary = 512, 2048
    hidden, weight = random(N, width, seed=1), random(vocabulary, width, seed=2) * 4 / width**0.5
    sampler = (half(hidden) @ half(weight).T).log_softmax(-1)
    gaps: dict[str, float] = {}
    for precision in ("float32", "bf16_in"):
        projection = torch.nn.Linear(width, vocabulary, bias=False)
        projection.weight = torch.nn.Parameter(weight, requires_grad=False)
        head = Head(projection=projection, softcap=None, scale=1.0, temperature=1.0, precision=precision)
        gaps[precision] = float((head(hidden) - sampler).abs().mean())
    assert gaps["bf16_in"] < 3e-6
    assert 2e-3 < gaps["float32"] < 5e-2


class Recorder(TorchDispatchMode):
    """Casts of the embedding, products with it, and their result's type."""

    def __init__(self) -> None:
        super().__init__()
        self.casts, self.products = 0, [("", torch.float32)][:0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.name().startswith("aten::_to_copy") and result.numel() == V * D:
            self.casts += 1
        if func.name().startswith(("aten::mm", "aten::addmm")):
            self.products.append((func.name(), result.dtype))
        return result


CHUNK = 3


@pytest.mark.parametrize(
    ("weights", "precision", "trained", "casts", "products"),
    [
        # A frozen bfloat16 head: forward and the hidden states' gradient, a chunk each.
        (torch.bfloat16, "float32", False, 1, 2),
        (torch.bfloat16, "bf16_in", False, 1, 2),  # bfloat16 already; made float32 for the CPU
        # A trained one: made again, and both gradients.
        (torch.float32, "float32", True, 0, 4),
        (torch.float32, "bf16_in", True, 2, 4),  # rounded, and made float32 for the CPU
    ],
)
def test_the_embedding_is_cast_once_a_pass_and_not_once_a_chunk(
    weights: torch.dtype,
    precision: Any,
    trained: bool,
    casts: int,
    products: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirrorpo.model.head.KEPT", 0)
    projection = torch.nn.Linear(D, V, bias=False, dtype=weights).requires_grad_(trained)
    head = Head(projection=projection, softcap=None, scale=1.0, temperature=1.0, precision=precision)
    hidden = random(N, D, seed=1).requires_grad_()
    tokens = torch.zeros(N, dtype=torch.long)
    with Recorder() as recorder:
        read_positions(head, hidden, tokens, logit_chunk=CHUNK).logprobs.sum().backward()
    assert recorder.casts == casts
    # The last chunk of a trained head is not made again.
    assert len(recorder.products) == products * N // CHUNK - trained


def test_cuda_is_asked_for_products_of_bfloat16_with_a_float32_result() -> None:
    # No card is here: the calls of a pass on tensors without numbers.
    with FakeTensorMode(), Recorder() as recorder:
        hidden = torch.empty(N, D, device="cuda", dtype=torch.bfloat16)
        rounded = factor(torch.empty(V, D, device="cuda"), "bf16_in")
        logits = module._times(hidden, rounded.t())
        upstream = logits.to(torch.bfloat16)
        module._times(upstream, rounded)
        module._times(upstream.t(), hidden)
    assert rounded.dtype == torch.bfloat16 and recorder.casts == 1
    assert recorder.products == [("aten::mm.dtype", torch.float32)] * 3
