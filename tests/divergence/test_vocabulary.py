from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mirrorpo.divergence import vocabulary
from mirrorpo.divergence.vocabulary import piece_by_piece, total

V = 5


def logprobs(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, V, dtype=dtype, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def term(log_p: Tensor, log_q: Tensor) -> Tensor:
    return log_p.double().exp() * (log_p.double() - log_q.double()).square()


def slope(log_p: Tensor, log_q: Tensor) -> Tensor:
    gap = log_p.double() - log_q.double()
    return log_p.double().exp() * (gap.square() + 2 * gap)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2 * V + 1, 2**17], ids=["a row at a time", "two rows", "all at once"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, threads: int) -> int:
    monkeypatch.setattr(vocabulary, "PIECE", request.param)
    return request.param


@pytest.mark.parametrize("shape", [(), (7,), (4, 3)])
def test_value_and_gradient_are_those_of_the_sum(piece, shape):
    log_p, log_q = logprobs(*shape, seed=1).requires_grad_(), logprobs(*shape, seed=2)
    factors = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ours, expected = total(term, slope, log_p, log_q), term(log_p, log_q).sum(dim=-1)
    torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)
    (our_gradient,), (its_gradient,) = (
        torch.autograd.grad((values * factors).sum(), log_p) for values in (ours, expected)
    )
    torch.testing.assert_close(our_gradient, its_gradient, rtol=1e-14, atol=1e-16)


def test_gradcheck(piece):
    log_q = logprobs(7, seed=2)
    assert torch.autograd.gradcheck(
        lambda log_p: total(term, slope, log_p, log_q), logprobs(7, seed=1).requires_grad_()
    )


def test_the_result_is_of_the_type_of_the_first(piece):
    log_p, log_q = (logprobs(7, seed=seed, dtype=torch.float32).requires_grad_() for seed in (1, 2))
    ours = total(term, slope, log_p, log_q)
    ours.sum().backward()
    assert ours.dtype == torch.float32
    assert log_p.grad is not None and log_p.grad.dtype == torch.float32
    assert log_q.grad is None


def test_no_positions_give_an_empty_sum_that_stays_connected():
    log_p = logprobs(0, seed=1).requires_grad_()
    ours = total(term, slope, log_p, logprobs(0, seed=2))
    ours.sum().backward()
    assert ours.shape == (0,)
    assert log_p.grad is not None


def test_a_second_derivative_is_refused():
    log_p = logprobs(7, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(
        total(term, slope, log_p, logprobs(7, seed=2)).square().sum(), log_p, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Doubles(TorchDispatchMode):
    """The largest float64 result of any operation in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float64:
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("rows", [1, 3])
def test_no_more_than_a_piece_exists_in_float64(rows, threads, monkeypatch):
    monkeypatch.setattr(vocabulary, "PIECE", rows * V)
    log_p, log_q = (logprobs(60, seed=seed, dtype=torch.float32).requires_grad_() for seed in (1, 2))
    with Doubles() as doubles:
        total(term, slope, log_p, log_q).sum().backward()
    assert doubles.largest == rows * V


def test_pieces_cover_every_row_once_without_gradient_each_in_one_thread_of_torch(threads, monkeypatch):
    monkeypatch.setattr(vocabulary, "PIECE", 2 * V)
    seen: list[int] = []

    def work(cut: slice) -> None:
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        seen.extend(range(cut.start, cut.stop))

    with torch.enable_grad():
        piece_by_piece(work, torch.zeros(8, V))
    assert sorted(seen) == list(range(8))
    assert torch.get_num_threads() == threads


def test_an_error_in_a_piece_is_raised_and_the_threads_stay(threads, monkeypatch):
    monkeypatch.setattr(vocabulary, "PIECE", V)

    def fails(log_p: Tensor, log_q: Tensor) -> Tensor:
        raise FloatingPointError("here")

    with pytest.raises(FloatingPointError, match="here"):
        total(fails, slope, logprobs(7, seed=1), logprobs(7, seed=2))
    assert torch.get_num_threads() == threads


def test_a_checkpoint_sums_once_and_takes_the_slope_once():
    calls: list[str] = []

    def counted(name: str, formula: Any) -> Any:
        return lambda log_p, log_q: calls.append(name) or formula(log_p, log_q)

    log_p, log_q = logprobs(7, seed=1).requires_grad_(), logprobs(7, seed=2)
    values: Any = checkpoint(
        lambda rows: total(counted("term", term), counted("slope", slope), rows * 1, log_q),
        log_p,
        use_reentrant=False,
    )
    values.sum().backward()
    assert calls == ["term", "slope"]
    (expected,) = torch.autograd.grad(term(log_p, log_q).sum(), log_p)
    torch.testing.assert_close(log_p.grad, expected, rtol=1e-14, atol=1e-16)
