"""Evolution strategies over a mirror map's numbers: what to try next, and what to make of how it went.

Ask and tell, with everything in between in files: a search that is killed goes on from them to the same
result.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.seeds import derive
from mirrorpo.divergence.candidate import POSITIVITY, noise


@dataclass(frozen=True, slots=True)
class Try:
    """One candidate: theta + sign sigma noise."""

    noise: int
    sign: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and its fitness."""

    candidate: Try
    fitness: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A search between two generations.

    Attributes:
        number: from 0.
        mean: theta, the unconstrained numbers.
        sigma: standard deviation of this generation's candidates.
        best: highest mean fitness of a generation whose step was taken.
        kept: candidates of a generation whose step was not taken, to be counted again.
        discarded: candidates dropped so far because one of their pair failed.
    """

    number: int
    mean: Sequence[float]
    sigma: float
    best: float
    kept: Sequence[Tried]
    discarded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolution:
    """A search's rules.

        theta <- theta + step / (N sigma) sum_i u(F_i) sign_i noise_i,   sigma_k = sigma decay^k

    over antithetic pairs, u the fitness itself (raw) or its centred rank in [-1/2, 1/2].

    Attributes:
        pairs: antithetic pairs a generation.
        sigma: of the first generation, in theta.
        decay: of sigma, a generation.
        step: length of a step (alpha).
        shaping: raw or ranks.
        accept: always take the step; or only when the generation's mean fitness is above the best so far.
        keep: after a step that was not taken, count the generation's best candidates again in the next:
            max(2, 2 floor(floor(N / 4) / 2)) of them, N = 2 pairs.
        positivity: how theta becomes non-negative numbers; `candidate.POSITIVITY`.
        seed: of the noise.

    Raises:
        ValueError: naming the setting.

    References:
        Yuan et al. 2026 (GBMPO), https://arxiv.org/abs/2602.04380, and its public code: raw fitness, accept
        improved, keep Salimans et al. 2017, https://arxiv.org/abs/1703.03864: ranks, antithetic pairs
    """

    pairs: int
    sigma: float
    decay: float
    step: float
    shaping: Literal["raw", "ranks"]
    accept: Literal["always", "improved"]
    keep: bool
    positivity: str
    seed: int

    def __post_init__(self) -> None:
        if (
            self.pairs < 1
            or not 0 < self.sigma < math.inf
            or not 0 < self.decay <= 1
            or not 0 < self.step < math.inf
        ):
            raise ValueError(
                f"hydra.sweeper: pairs={self.pairs}, sigma={self.sigma}, decay={self.decay}, "
                f"step={self.step}: give at least one pair, a positive sigma and step, and a decay in (0, 1]"
            )
        if (
            self.shaping not in ("raw", "ranks")
            or self.accept not in ("always", "improved")
            or self.positivity not in POSITIVITY
        ):
            raise ValueError(
                f"hydra.sweeper: shaping={self.shaping}, accept={self.accept}, positivity={self.positivity}: "
                f"choose raw or ranks; always or improved; one of {', '.join(POSITIVITY)}"
            )

    def start(self, numbers: Tensor) -> Generation:
        """A search around these numbers.

        Raises:
            ValueError: if the positivity cannot give them.
        """
        forward, inverse = POSITIVITY[self.positivity]
        mean = inverse(numbers)
        if not torch.allclose(forward(mean), numbers, rtol=1e-9, atol=1e-12):
            raise ValueError(
                f"hydra.sweeper.positivity={self.positivity}: gives no negative numbers, and the start has "
                f"some; use positivity=none"
            )
        return Generation(0, mean.tolist(), self.sigma, -math.inf, (), 0)

    def numbers(self, mean: Sequence[float]) -> Tensor:
        """The mirror map's numbers at a theta."""
        return POSITIVITY[self.positivity][0](torch.tensor(mean, dtype=torch.float64))

    def ask(self, generation: Generation) -> list[Try]:
        """The candidates of a generation, pair by pair."""
        seeds = [derive(self.seed, "es", generation.number, pair) for pair in range(self.pairs)]
        return [Try(seed, sign) for seed in seeds for sign in (1, -1)]

    def tell(self, generation: Generation, fitness: Mapping[Try, float | None]) -> Generation:
        """The next generation; a candidate without a finite fitness takes its pair with it.

        Raises:
            ValueError: if no pair is left.
        """
        candidates = self.ask(generation)
        pairs = [candidates[start : start + 2] for start in range(0, len(candidates), 2)]
        complete = [pair for pair in pairs if all(_finite(fitness.get(candidate)) for candidate in pair)]
        if not complete:
            raise ValueError(
                f"generation {generation.number}: no pair of candidates has both fitnesses; see their runs' "
                f"errors"
            )
        tried = [Tried(candidate, float(fitness[candidate])) for pair in complete for candidate in pair]  # type: ignore[arg-type]
        counted = [*tried, *generation.kept]
        after = replace(
            generation,
            number=generation.number + 1,
            sigma=self.sigma * self.decay ** (generation.number + 1),
            discarded=generation.discarded + len(candidates) - len(tried),
            kept=(),
        )
        mean = sum(entry.fitness for entry in tried) / len(tried)
        if self.accept == "improved" and mean <= generation.best:
            count = max(2, 2 * (len(candidates) // 4 // 2))
            ranked = sorted(tried, key=lambda entry: -entry.fitness)
            return replace(after, kept=tuple(ranked[:count]) if self.keep else ())
        size = len(generation.mean)
        directions = torch.stack(
            [entry.candidate.sign * noise(entry.candidate.noise, size) for entry in counted]
        )
        utility = shaped([entry.fitness for entry in counted], self.shaping)
        gradient = (utility[:, None] * directions).sum(0) / (len(counted) * generation.sigma)
        moved = torch.tensor(generation.mean, dtype=torch.float64) + self.step * gradient
        return replace(after, mean=moved.tolist(), best=max(mean, generation.best))


def shaped(fitness: Sequence[float], shaping: str) -> Tensor:
    """Fitnesses as the weights of their directions; equal ones share their ranks' mean.

    >>> shaped([3.0, 1.0, 1.0], "ranks")
    tensor([ 0.5000, -0.2500, -0.2500], dtype=torch.float64)
    """
    values = torch.tensor(fitness, dtype=torch.float64)
    if shaping == "raw" or len(values) == 1:
        return values
    below = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2
    return below.double() / (len(values) - 1) - 0.5


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
