"""What an adapter is made with; `conf/lora`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank adapters (peft); the base stays frozen and, with the adapter off, is the reference.

    Attributes:
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, in training mode only.
        targets: names of the adapted projections; never the output head.
    """

    rank: int
    alpha: int
    dropout: float
    targets: Sequence[str]
