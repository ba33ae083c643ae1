"""Sums over the vocabulary, a few positions at a time."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Term = Callable[[Tensor, Tensor], Tensor]

# Numbers worked on at once. On a CPU, few enough for float64 results to stay in the cache, where an operation
# takes a tenth of the time it takes in memory; elsewhere enough to keep the device busy.
PIECE = 2**17
PIECE_ELSEWHERE = 2**24


# Devices on which every probability and term is float64. Elsewhere, where memory's rate is the limit, what
# has a form for it (`potentials.ClosedForm`) is computed in the log-probabilities' own type.
IN_FLOAT64 = ("cpu",)


def in_float64(rows: Tensor) -> bool:
    """Whether sums over these rows are computed in float64 throughout."""
    return rows.device.type in IN_FLOAT64


def piece_by_piece(work: Callable[[slice], None], rows: Tensor) -> None:
    """Call `work`, without gradient, on cuts that cover the rows of a [N, V] tensor, at least a row each.

    On a CPU every thread of torch takes pieces of its own. To share out each operation, as torch would,
    costs more than an operation on a piece where waiting threads sleep (OMP_WAIT_POLICY=passive).
    """
    on_cpu = rows.device.type == "cpu"
    height = max((PIECE if on_cpu else PIECE_ELSEWHERE) // max(rows.shape[1], 1), 1)
    cuts = [slice(start, start + height) for start in range(0, rows.shape[0], height)]
    threads = torch.get_num_threads() if on_cpu and len(cuts) > 1 else 1
    quiet = torch.no_grad()(work)
    if threads == 1:
        for cut in cuts:
            quiet(cut)
        return
    try:
        # In each of the pool's threads torch is to use that one only.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(quiet, cuts))
    finally:
        # The number is a thread's own, but threads started later take the one that was set last.
        torch.set_num_threads(threads)


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
        return gradient_of_total(ctx.slope, log_p, log_q, gradient), None, None


def gradient_of_total(slope: Term, log_p: Tensor, log_q: Tensor, factor: Tensor) -> Tensor:
    """The gradient to log_p of sum_n factor_n total_n, with `slope` as in `total`.

    Shapes: log_p and log_q [N, V], factor [N]; the result is a new [N, V], in log_p's type.
    """
    out = torch.empty_like(log_p)

    def fill(cut: slice) -> None:
        torch.mul(slope(log_p[cut], log_q[cut]), factor[cut, None], out=out[cut])

    piece_by_piece(fill, log_p)
    return out


def total(term: Term, slope: Term, log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum_v term(log p_v, log q_v).

    Shapes: log_p and log_q [..., V]; the result is [...], in log_p's type. `term` and `slope` are given
    some rows of both, without gradient and in any thread, and may compute in float64: no more of that
    exists at once than a piece for each thread.

    Value: the sum. Gradient: to log_p, slope(log_p, log_q), which has to be d term / d log p; it is
    computed in the backward pass, for which only log_p and log_q are kept. None to log_q.

    Example:
        >>> log_p = torch.tensor([[0.25, 0.75]]).log()
        >>> total(lambda a, b: a.exp() * (a - b), lambda a, b: a.exp() * (a - b + 1), log_p, log_p - 1)
        tensor([1.])
    """
    # Also of no tokens at all.
    rows = (math.prod(log_p.shape[:-1]), log_p.shape[-1])
    rows_p, rows_q = log_p.reshape(rows), log_q.reshape(rows)
    result = Carried.apply(rows_p, rows_q, slope)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    carried = cast("Tensor", result)
    value = torch.empty_like(carried)

    def fill(cut: slice) -> None:
        value[cut] = term(rows_p[cut], rows_q[cut]).sum(dim=1)

    # After what keeps tensors: a checkpoint's recomputation stops there, and does not sum again.
    piece_by_piece(fill, rows_p)
    return (carried + value).view(log_p.shape[:-1])
