"""The 380 numbers of one candidate of an evolution search, named by its generation's file, its noise and a
sign.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NotRequired, TypedDict, cast

import torch
from torch import Tensor

from mirrorpo.core.seeds import generator
from mirrorpo.divergence.map_file import map_file
from mirrorpo.divergence.map_scale import MapScale

# theta -> number, number -> theta. What makes every number non-negative, and with it the potential convex;
# `none` does not.
POSITIVITY: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "softplus": (
        lambda theta: torch.nn.functional.softplus(theta, threshold=40),
        lambda number: number + torch.log(-torch.expm1(-number)),
    ),
    "square": (torch.square, torch.sqrt),
    "clip": (lambda theta: theta.clamp(min=0), lambda number: number),
    "none": (lambda theta: theta, lambda number: number),
}


def noise(seed: int, count: int) -> Tensor:
    """A candidate's direction in parameter space, N(0, 1), [count] in float64; a stream of its own."""
    return torch.randn(count, dtype=torch.float64, generator=generator(seed, "es"))


class _Scale(TypedDict):
    p: list[float]
    q: list[float]
    value: float


class _Generation(TypedDict):
    # What is read of a generation's file.
    mean: list[float]
    sigma: float
    positivity: str
    scale: NotRequired[_Scale | None]


def theta_of(mean: Tensor, sigma: float, seed: int, sign: int) -> Tensor:
    """A candidate's theta: mean + sign sigma noise."""
    return mean + sign * sigma * noise(seed, len(mean))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """380 numbers from a search's generation: positive(mean + sign sigma noise), at the search's scale.

    The generation's file holds `mean` (the search's theta), `sigma`, `positivity` and, where maps are to be
    of one strength, `scale` (`MapScale`). Two candidates with one noise and opposite signs are an antithetic
    pair.

    Attributes:
        generation: the file, or `mirrorpo:<name>` for one of `divergence/maps`, which ship with the package.
        noise: seed of the direction.
        sign: 1, -1, or 0 for the mean itself.

    Raises:
        ValueError: if the file cannot be read or is no generation, or for another sign.

    Example:
        >>> plus = Candidate(generation="mirrorpo:generation", noise=1, sign=1)
        >>> minus = Candidate(generation="mirrorpo:generation", noise=1, sign=-1)
        >>> bool((plus.values > 0).all() and (plus.values != minus.values).any()), plus.signed
        (True, False)

    References:
        Yuan et al. 2026 (GBMPO), evolution strategies over mirror maps, https://arxiv.org/abs/2602.04380
        Salimans et al. 2017, https://arxiv.org/abs/1703.03864
    """

    generation: str
    noise: int
    sign: int

    def __post_init__(self) -> None:
        if self.sign not in (-1, 0, 1):
            raise ValueError(
                f"divergence.potential.parameters.sign={self.sign}: give 1 or -1, or 0 for the generation's "
                f"mean"
            )
        _ = self.values

    @property
    def signed(self) -> bool:
        """Whether numbers may be negative."""
        return self._file["positivity"] == "none"

    @cached_property
    def values(self) -> Tensor:
        """The numbers, [380] in float64."""
        file = self._file
        mean = torch.tensor(file["mean"], dtype=torch.float64)
        forward, _ = POSITIVITY[file["positivity"]]
        values = forward(theta_of(mean, file["sigma"], self.noise, self.sign))
        scale = file.get("scale")
        return values if scale is None else MapScale(**scale).scaled(values)

    @cached_property
    def _file(self) -> _Generation:
        setting = f"divergence.potential.parameters.generation={self.generation}"
        try:
            content = json.loads(map_file(self.generation).read_text(encoding="utf-8"))
            generation = cast("_Generation", content)
            valid = (
                len(generation["mean"]) == 380
                and all(map(math.isfinite, generation["mean"]))
                and 0 <= generation["sigma"] < math.inf
                and generation["positivity"] in POSITIVITY
            )
        except OSError as error:
            raise ValueError(
                f"{setting}: cannot be read ({error.strerror}); hydra/sweeper=es writes these files"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{setting}: is no generation of a search ({error}); hydra/sweeper=es writes these files"
            ) from error
        if not valid:
            raise ValueError(
                f"{setting}: needs 380 finite means, a sigma and a positivity of {', '.join(POSITIVITY)}; "
                "hydra/sweeper=es writes these files"
            )
        return generation
