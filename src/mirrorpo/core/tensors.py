"""Methods of torch whose stubs give no type, with one."""

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
