"""Covariance matrix adaptation over a mirror map's numbers, by the package `cma`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mirrorpo.divergence.candidate import POSITIVITY
from mirrorpo.launch.evolution import Generation, Try, generation_file, theta_of

if TYPE_CHECKING:
    from cma import CMAEvolutionStrategy  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True, kw_only=True)
class CmaSearch:
    """A search's rules: CMA-ES, whose state is replayed from the fitnesses so far.

    A candidate is a point of its own, `Try(number, 0)`. Of a generation up to half of the candidates may
    fail, since a step is the mean of the better half; the others are told.

    Attributes:
        candidates: a generation.
        sigma: of the first generation, in theta.
        diagonal: adapt deviations alone, without correlations: the form for many numbers and few candidates.
        positivity: how theta becomes non-negative numbers; `candidate.POSITIVITY`.
        seed: of the candidates, below 2**32.

    Raises:
        ValueError: naming the setting, or where the package is missing.

    References:
        Hansen 2016, The CMA evolution strategy: a tutorial, https://arxiv.org/abs/1604.00772
        Ros and Hansen 2008 (diagonal), https://hal.inria.fr/inria-00287367
    """

    candidates: int
    sigma: float
    diagonal: bool
    positivity: str
    seed: int

    def __post_init__(self) -> None:
        if (
            type(self.candidates) is not int
            or self.candidates < 4
            or not 0 < self.sigma < math.inf
            or self.positivity not in POSITIVITY
        ):
            raise ValueError(
                f"hydra.sweeper.search: candidates={self.candidates}, sigma={self.sigma}, "
                f"positivity={self.positivity}: give at least 4, a positive sigma, and one of "
                f"{', '.join(POSITIVITY)}"
            )
        # Without a seed numpy draws others each time, and a search could not be gone on with.
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise ValueError(
                f"hydra.sweeper.search.seed={self.seed}: give a whole number from 0 to {2**32 - 1}"
            )

    def start(self, numbers: Tensor) -> Generation:
        """A search around these numbers.

        Raises:
            ValueError: if the positivity cannot give them, or the package is missing.
        """
        try:
            import cma  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                "hydra/sweeper=cma: the package cma is not installed; pip install 'mirrorpo[cma]', or use "
                "hydra/sweeper=es"
            ) from error
        mean = theta_of(numbers, self.positivity)
        options = {
            "popsize": self.candidates,
            "CMA_diagonal": self.diagonal,
            # A stream of its own; without it the package seeds numpy's global one.
            "randn": np.random.RandomState(self.seed).randn,
            "seed": math.nan,
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
        }
        self._held["strategy"] = cma.CMAEvolutionStrategy(mean, self.sigma, options)
        return Generation(0, mean, self.sigma, -math.inf, mean, (), 0)

    def numbers(self, mean: Sequence[float]) -> Tensor:
        """The mirror map's numbers at a theta."""
        return POSITIVITY[self.positivity][0](torch.tensor(mean, dtype=torch.float64))

    def ask(self, generation: Generation) -> list[Try]:
        """The candidates of a generation."""
        return [Try(number, 0) for number in range(self.candidates)]

    def points(self, generation: Generation) -> dict[str, tuple[Sequence[float], float]]:
        """Each candidate's theta, and the mean with its sigma, by the name of the file."""
        own = {
            self.point_of(generation, candidate): (point, 0.0)
            for candidate, point in zip(self.ask(generation), self._thetas(generation), strict=True)
        }
        return {generation_file(generation): (generation.mean, generation.sigma), **own}

    def point_of(self, generation: Generation, candidate: Try) -> str:
        """The name of a candidate's file."""
        return f"candidate_{generation.number:03d}_{candidate.noise:02d}.json"

    def replay(self, generation: Generation, fitness: Mapping[Try, float | None]) -> None:
        """Bring the strategy to where it was behind a generation."""
        self._told(generation, fitness)

    def tell(self, generation: Generation, fitness: Mapping[Try, float | None]) -> Generation:
        """The next generation.

        Raises:
            ValueError: if fewer than half of the candidates have a fitness.
        """
        known = self._told(generation, fitness)
        mean = sum(known) / len(known)
        improved = mean > generation.best
        strategy = self._held["strategy"]
        return replace(
            generation,
            number=generation.number + 1,
            mean=[float(value) for value in strategy.mean],
            sigma=float(strategy.sigma),
            best=max(mean, generation.best),
            best_mean=generation.mean if improved else generation.best_mean,
            discarded=generation.discarded + self.candidates - len(known),
        )

    def _told(self, generation: Generation, fitness: Mapping[Try, float | None]) -> list[float]:
        thetas = self._thetas(generation)
        known = [
            (theta, value)
            for candidate, theta in zip(self.ask(generation), thetas, strict=True)
            if (value := fitness.get(candidate)) is not None and math.isfinite(value)
        ]
        # The package's own number of candidates that a step is the mean of.
        needed = self.candidates // 2
        if len(known) < needed:
            raise ValueError(
                f"generation {generation.number}: {len(known)} of hydra.sweeper.search.candidates="
                f"{self.candidates} have a fitness, CMA-ES needs {needed}; see the errors of the others' runs"
            )
        self._held["strategy"].tell([theta for theta, _ in known], [-value for _, value in known])
        return [value for _, value in known]

    def _thetas(self, generation: Generation) -> list[list[float]]:
        """The points of a generation, drawn once."""
        if generation.number not in self._drawn:
            points = self._held["strategy"].ask()
            self._drawn[generation.number] = [[float(value) for value in point] for point in points]
        return self._drawn[generation.number]

    @cached_property
    def _held(self) -> "dict[str, CMAEvolutionStrategy]":
        return {}

    @cached_property
    def _drawn(self) -> dict[int, list[list[float]]]:
        return {}
