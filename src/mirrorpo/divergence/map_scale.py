"""The size of a mirror map, set by what its divergence is between two distributions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorpo.divergence.neural_mirror import UNITS, GivenParameters, NeuralMirror

SETTING = "hydra.sweeper.scale"


@dataclass(frozen=True, kw_only=True, slots=True)
class MapScale:
    """What makes maps of one strength: D(p, q) = value for two distributions p and q.

    A map's v, a and c are multiplied by one factor, by which its divergence is multiplied at all pairs; its
    shape, and so w and b, stays. Between maps of one scale a search can choose a shape alone.

    Attributes:
        p: a distribution.
        q: another over as many tokens.
        value: the divergence summed over the tokens, > 0.

    Raises:
        ValueError: naming the setting.

    Example:
        >>> from mirrorpo.divergence.neural_mirror import RandomParameters
        >>> kl = MapScale(p=[0.9, 0.1], q=[0.5, 0.5], value=0.3681)
        >>> values = RandomParameters(seed=42, scale=0.01, signed=False).values
        >>> round(kl.divergence(kl.scaled(values)), 6), round(kl.divergence(kl.scaled(7 * values)), 6)
        (0.3681, 0.3681)
    """

    p: Sequence[float]
    q: Sequence[float]
    value: float

    def __post_init__(self) -> None:
        for name, distribution in (("p", self.p), ("q", self.q)):
            if len(distribution) < 2 or min(distribution) <= 0 or abs(math.fsum(distribution) - 1) > 1e-6:
                raise ValueError(
                    f"{SETTING}.{name}={list(distribution)}: give two or more probabilities above 0 that "
                    "sum to 1"
                )
        if len(self.p) != len(self.q) or list(self.p) == list(self.q):
            raise ValueError(f"{SETTING}: p and q are two different distributions over as many tokens")
        if not 0 < self.value < math.inf:
            raise ValueError(f"{SETTING}.value={self.value}: give a positive divergence")

    def divergence(self, values: Tensor) -> float:
        """D(p, q) of a map's numbers."""
        mirror = NeuralMirror(parameters=GivenParameters(values))
        p, q = (torch.tensor(list(side), dtype=torch.float64) for side in (self.p, self.q))
        return float((mirror.f(p) - mirror.f(q) - mirror.df(q) * (p - q)).sum())

    def scaled(self, values: Tensor) -> Tensor:
        """The numbers of the map of this scale.

        Raises:
            ValueError: where D(p, q) is not positive, as of a map that is flat, or signed.
        """
        divergence = self.divergence(values)
        if not divergence > 0:
            raise ValueError(
                f"{SETTING}: D(p, q) of the map is {divergence}, which no factor makes {self.value}; set "
                "hydra.sweeper.scale=null to leave maps as they are"
            )
        out = values.clone()
        out[:UNITS] *= self.value / divergence
        out[-2:] *= self.value / divergence
        return out
