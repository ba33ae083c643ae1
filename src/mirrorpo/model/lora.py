"""What an adapter is made with, or that one goes on; `conf/lora`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank adapters (peft); the base stays frozen and, with the adapter off, is the reference.

    Attributes:
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, in training mode only.
        targets: names of the adapted projections, each of which has to match; never the output head. None is
            every projection that the architecture has.
    """

    rank: int
    alpha: int
    dropout: float
    targets: Sequence[str] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """The adapter in the folder of `model.path` goes on training, with its rank, scale and targets.

    The reference is the adapter as it lies there.
    """
