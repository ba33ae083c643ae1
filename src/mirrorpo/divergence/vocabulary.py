"""Sums over the vocabulary, a few positions at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Term = Callable[[Tensor, Tensor], Tensor]

# Numbers worked on at once. On a CPU, few enough for each thread's float64 results to stay in its cache, where an
# operation takes a tenth of the time it takes in memory; elsewhere enough to keep the device busy.
PIECE_OF_A_THREAD = 2**16
PIECE_ELSEWHERE = 2**24


def pieces(rows: Tensor) -> Iterator[slice]:
    """Cuts of a [N, V] tensor into pieces of whole rows, at least one row each."""
    numbers = PIECE_OF_A_THREAD * torch.get_num_threads() if rows.device.type == "cpu" else PIECE_ELSEWHERE
    height = max(numbers // rows.shape[1], 1)
    return (slice(start, start + height) for start in range(0, rows.shape[0], height))


class Carried(torch.autograd.Function):
    """Zero at every position, with the gradient slope(log_p, log_q) to log_p."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, log_q: Tensor, slope: Term) -> Tensor:
        ctx.save_for_backward(log_p, log_q)
        ctx.slope = slope
        return log_p.new_zeros(log_p.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        log_p, log_q = ctx.saved_tensors
        out = torch.empty_like(log_p)
        for cut in pieces(log_p):
            out[cut] = ctx.slope(log_p[cut], log_q[cut]) * gradient[cut, None]
        return out, None, None


def total(term: Term, slope: Term, log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum_v term(log p_v, log q_v).

    Shapes: log_p and log_q [..., V]; the result is [...], in log_p's type. `term` and `slope` are given
    some rows of both and may compute in float64: no more than a piece of that exists at once.

    Value: the sum. Gradient: to log_p, slope(log_p, log_q), which has to be d term / d log p; it is
    computed in the backward pass, for which only log_p and log_q are kept. None to log_q.

    Example:
        >>> log_p = torch.tensor([[0.25, 0.75]]).log()
        >>> total(lambda a, b: a.exp() * (a - b), lambda a, b: a.exp() * (a - b + 1), log_p, log_p - 1)
        tensor([1.])
    """
    rows_p, rows_q = log_p.reshape(-1, log_p.shape[-1]), log_q.reshape(-1, log_q.shape[-1])
    carried: Any = Carried.apply(rows_p, rows_q, slope)
    # After what keeps tensors: a checkpoint's recomputation stops there, and does not sum again.
    with torch.no_grad():
        value = torch.empty_like(carried)
        for cut in pieces(rows_p):
            value[cut] = term(rows_p[cut], rows_q[cut]).sum(dim=1)
    return (carried + value).view(log_p.shape[:-1])
