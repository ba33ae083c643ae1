"""Weights rounded to what a coarser sampler would hold, and read in the policy's own precision."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Precision: TypeAlias = Literal["bf16", "fp8", "int8"]

# The largest numbers of float8 e4m3 and of a symmetric int8.
LARGEST = {"fp8": 448.0, "int8": 127.0}


def rounded(weight: Tensor, precision: Precision) -> Tensor:
    """A weight to the nearest number that the precision has, in float32.

    bf16: to bfloat16. fp8, int8: each row of the last dimension by its own scale s = max |w| / largest,
    s * round(w / s), round to float8 e4m3 or to a whole number, ties to even; a row of zeros stays.

    Example:
        >>> rounded(torch.tensor([[1.0, -0.4961, 0.003]]), "int8")
        tensor([[ 1.0000, -0.4961,  0.0000]])
    """
    weight = weight.float()
    if precision == "bf16":
        return weight.to(torch.bfloat16).float()
    largest = LARGEST[precision]
    scale = weight.abs().amax(dim=-1, keepdim=True) / largest
    # A scale that is zero, or too small to divide by, stands for a row of zeros.
    steps = torch.where(scale > 0, weight / scale, 0.0).nan_to_num(0.0).clamp(-largest, largest)
    if precision == "int8":
        return steps.round() * scale
    return steps.to(torch.float8_e4m3fn).float() * scale
