"""No divergence: nothing is read, nothing is paid."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class NoDivergence:
    """The zero divergence; the anchor is never run.

    Value: 0. Gradient: 0.

    Example:
        >>> NoDivergence()(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([-1.0]))
        tensor([0.])
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "nothing"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return torch.zeros_like(policy)
