"""Methods of torch whose stubs give no type, with one; what goes from one device to another, at once."""

import math
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


def numbers(scalars: Sequence[Tensor]) -> list[float]:
    """The values of tensors without dimensions, by one read of their device.

    Example:
        >>> numbers([torch.tensor(0.5), torch.tensor(True)])
        [0.5, 1.0]
    """
    if not scalars:
        return []
    values = torch.stack([scalar.detach().double() for scalar in scalars])
    return values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether no number of several tensors is NaN or infinite, on their device: nothing is read.

    Example:
        >>> all_finite([torch.zeros(2), torch.tensor([1.0, float("nan")])])
        tensor(False)
    """
    filled = [tensor for tensor in tensors if tensor.numel()]
    return torch.nn.utils.get_total_norm(filled, math.inf).isfinite()


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of one device on another one, by one copy; the CPU does not wait for one to a CUDA device.

    Value: the same numbers, without their gradient. Those that are there already are returned themselves.
    """
    if not tensors or tensors[0].device.type == device.type:
        return [tensor.to(device) for tensor in tensors]
    together = packed(tensors)
    # Memory of which CUDA copies by itself.
    together = together.pin_memory() if device.type == "cuda" else together
    return unpacked(together.to(device, non_blocking=device.type != "cpu"), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of several tensors one behind the other."""
    flat = [tensors[index].detach().reshape(-1).view(torch.uint8) for index in _widest_first(tensors)]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def unpacked(together: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of what `packed` made of tensors like these."""
    out, start = list(like), 0
    for index in _widest_first(like):
        end = start + like[index].numel() * like[index].element_size()
        out[index] = together[start:end].view(like[index].dtype).view(like[index].shape)
        start = end
    return out


def _widest_first(tensors: Sequence[Tensor]) -> list[int]:
    # So that each begins at a multiple of its numbers' width.
    return sorted(range(len(tensors)), key=lambda index: -tensors[index].element_size())
