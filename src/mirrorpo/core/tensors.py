"""Methods of torch whose stubs give no type, with one; what goes from one device to another, at once."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def integers(values: Tensor) -> list[int]:
    """The numbers of a [N] tensor of integers.

    Example:
        >>> integers(torch.unique(Tensor([3, 1, 3])).int())
        [1, 3]
    """
    return values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def flags(values: Tensor) -> list[bool]:
    """The truth values of a [N] tensor of booleans.

    Example:
        >>> flags(Tensor([3, 0]) > 1)
        [True, False]
    """
    return values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def distinct_index(values: Tensor, dim: int | None = None) -> Tensor:
    """Which of the distinct values, in rising order and counted from 0, each entry along `dim` is.

    Example:
        >>> distinct_index(Tensor([7, 3, 7]))
        tensor([1, 0, 1])
    """
    result = torch.unique(values, dim=dim, return_inverse=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("tuple[Tensor, Tensor]", result)[1]


def chunks(values: Tensor, size: int) -> tuple[Tensor, ...]:
    """Views of at most `size` entries along the first dimension.

    Example:
        >>> [len(chunk) for chunk in chunks(Tensor([1, 2, 3]), 2)]
        [2, 1]
    """
    return values.split(size)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of one device on another one, by one copy; the CPU does not wait for one to a CUDA device.

    Value: the same numbers, without their gradient. Those that are there already are returned themselves.
    """
    if not tensors or tensors[0].device.type == device.type:
        return [tensor.to(device) for tensor in tensors]
    # As bytes, wider numbers first, so that each begins at a multiple of its width.
    order = sorted(range(len(tensors)), key=lambda index: -tensors[index].element_size())
    flat = [tensors[index].detach().reshape(-1).view(torch.uint8) for index in order]
    packed = torch.cat(flat) if len(flat) > 1 else flat[0]
    # Memory of which CUDA copies by itself.
    packed = packed.pin_memory() if device.type == "cuda" else packed
    packed = packed.to(device, non_blocking=device.type != "cpu")
    out, start = list(tensors), 0
    for index, part in zip(order, flat, strict=True):
        there = packed[start : start + len(part)]
        out[index] = there.view(tensors[index].dtype).view(tensors[index].shape)
        start += len(part)
    return out
