"""The head's product: hidden states times output embedding, in float32 or from operands in bfloat16."""

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

# How exact the product's operands are; its result is float32 in both.
HeadPrecision = Literal["float32", "bf16_in"]


def operand_bytes(precision: HeadPrecision) -> int:
    """Bytes of a number that the product reads."""
    return 2 if precision == "bf16_in" else 4


def factor(weight: Tensor, precision: HeadPrecision) -> Tensor:
    """An output embedding as it is multiplied: in float32 at least, or rounded to bfloat16.

    The rounded one has no gradient; `product` takes it beside the embedding itself. Where no device
    multiplies bfloat16 into float32, its rounded numbers are kept in float32.
    """
    if precision == "float32":
        return weight.to(torch.promote_types(weight.dtype, torch.float32))
    rounded = weight.detach().to(torch.bfloat16)
    return rounded if rounded.device.type == "cuda" else rounded.float()


def product(hidden: Tensor, weight: Tensor, rounded: Tensor | None, bias: Tensor | None) -> Tensor:
    """h W^T + b in float32 at least.

    Args:
        hidden: [N, D], of any dtype.
        weight: [V, D], which gets the gradient.
        rounded: the `factor` that stands for it in the product, where that is rounded to bfloat16.
        bias: [V], or None.
    """
    if rounded is None:
        return linear(hidden.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
    logits = cast(Tensor, _RoundedProduct.apply(hidden, weight, rounded))  # pyright: ignore[reportUnknownMemberType]
    return logits if bias is None else logits + bias.float()


class _RoundedProduct(torch.autograd.Function):
    """h W^T of operands rounded to bfloat16, added up and returned in float32; so are its gradients.

    On CUDA each is one product on tensor cores (`torch.mm` with `out_dtype`, which is CUDA's alone and has no
    gradient of its own). Elsewhere the rounded operands are multiplied in float32, where a product of two
    bfloat16 numbers is exact: the same numbers up to the order of the sum.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, rounded: Tensor) -> Tensor:
        states = hidden.to(torch.bfloat16)
        ctx.save_for_backward(states, rounded)
        ctx.dtypes = hidden.dtype, weight.dtype
        return _times(states, rounded.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        states, rounded = ctx.saved_tensors
        upstream = gradient.to(torch.bfloat16)
        of_hidden, of_weight, _ = ctx.needs_input_grad
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            _times(upstream, rounded).to(hidden_dtype) if of_hidden else None,
            _times(upstream.t(), states).to(weight_dtype) if of_weight else None,
            None,
        )


def _times(first: Tensor, second: Tensor) -> Tensor:
    # Of bfloat16 numbers, into float32.
    if first.device.type == "cuda":
        return torch.mm(first, second, out_dtype=torch.float32)
    return torch.mm(first.float(), second.float())
