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

# How fitnesses become weights of their directions, by rule.
SHAPING: Mapping[str, Sequence[str]] = {"paired": ("scores", "ranks"), "published": ("raw",)}


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
        best: highest mean fitness of a generation so far; with rule=published, of one whose step was taken.
        best_mean: the theta around which that generation's candidates lay.
        kept: candidates of a generation whose step was not taken, to be counted again.
        discarded: candidates dropped so far because they, or the other of their pair, failed.
    """

    number: int
    mean: Sequence[float]
    sigma: float
    best: float
    best_mean: Sequence[float]
    kept: Sequence[Tried]
    discarded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolution:
    """A search's rules.

    rule=paired, over the P whole antithetic pairs j, with u the fitnesses less their mean in units of their
    standard deviation (scores) or their centred ranks, so brought to one deviation:

        theta <- theta + step sigma_k sum_j (u_j+ - u_j-) / 2 noise_j / P,   sigma_k = sigma decay^k

    and no coordinate moves by more than step sigma_k: a longer move is shortened to that. Equal fitnesses
    move nothing. On noise a coordinate's move has the deviation step sigma_k / sqrt(2 P).

    rule=published, as the papers' public code: over candidates i with a fitness above 0, those kept from the
    generation before among them, N the number of new ones that ran,

        theta <- theta + step / (N sigma_k) sum_i F_i sign_i noise_i

    Candidates that fail leave alone; a step is taken when the mean fitness, of the kept ones too, is the best
    yet; else the best candidates of old and new are kept, one by one. A kept candidate without the other of
    its pair moves theta by its whole fitness, which is many times theta's norm where all fitnesses are equal.

    Attributes:
        pairs: antithetic pairs a generation.
        sigma: of the first generation, in theta.
        decay: of sigma, a generation.
        step: length of a step: in units of sigma, or of the published sum (its alpha).
        rule: paired or published.
        shaping: scores or ranks; raw with rule=published.
        accept: always take the step; or only when the generation's mean fitness is above the best so far.
        keep: after a step that was not taken, count the generation's best again in the next, whole pairs or
            with rule=published candidates: max(2, 2 floor(floor(N / 4) / 2)) candidates, N = 2 pairs.
        positivity: how theta becomes non-negative numbers; `candidate.POSITIVITY`.
        seed: of the noise.

    Raises:
        ValueError: naming the setting.

    References:
        Salimans et al. 2017, antithetic pairs, ranks, https://arxiv.org/abs/1703.03864
        Yuan et al. 2026 (GBMPO), https://arxiv.org/abs/2602.04380, and its public code: rule published, raw
        fitness, accept improved, keep
    """

    pairs: int
    sigma: float
    decay: float
    step: float
    rule: Literal["paired", "published"]
    shaping: Literal["scores", "ranks", "raw"]
    accept: Literal["always", "improved"]
    keep: bool
    positivity: str
    seed: int

    def __post_init__(self) -> None:
        if (
            type(self.pairs) is not int
            or self.pairs < 1
            or not 0 < self.sigma < math.inf
            or not 0 < self.decay <= 1
            or not 0 < self.step < math.inf
        ):
            raise ValueError(
                f"hydra.sweeper.search: pairs={self.pairs}, sigma={self.sigma}, decay={self.decay}, "
                f"step={self.step}: give at least one pair, a positive sigma and step, and a decay in (0, 1]"
            )
        if type(self.seed) is not int:
            raise ValueError(f"hydra.sweeper.search.seed={self.seed}: give a whole number")
        choices = {"rule": tuple(SHAPING), "accept": ("always", "improved"), "positivity": tuple(POSITIVITY)}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"hydra.sweeper.search.{name}={value}: choose {' or '.join(allowed)}")
        if self.shaping not in SHAPING[self.rule]:
            raise ValueError(
                f"hydra.sweeper.search.shaping={self.shaping}: rule={self.rule} has "
                f"{' or '.join(SHAPING[self.rule])}"
            )

    def start(self, numbers: Tensor) -> Generation:
        """A search around these numbers.

        Raises:
            ValueError: if the positivity cannot give them.
        """
        mean = theta_of(numbers, self.positivity)
        return Generation(0, mean, self.sigma, -math.inf, mean, (), 0)

    def numbers(self, mean: Sequence[float]) -> Tensor:
        """The mirror map's numbers at a theta."""
        return POSITIVITY[self.positivity][0](torch.tensor(mean, dtype=torch.float64))

    def ask(self, generation: Generation) -> list[Try]:
        """The candidates of a generation, pair by pair."""
        seeds = [derive(self.seed, "es", generation.number, pair) for pair in range(self.pairs)]
        return [Try(seed, sign) for seed in seeds for sign in (1, -1)]

    def tell(self, generation: Generation, fitness: Mapping[Try, float | None]) -> Generation:
        """The next generation.

        A candidate without a finite fitness does not count; with rule=paired its pair does not.

        Raises:
            ValueError: if no pair, or no candidate, is left.
        """
        candidates = self.ask(generation)
        tried = self._tried(candidates, fitness)
        if not tried:
            raise ValueError(
                f"generation {generation.number}: no pair of candidates has both fitnesses; see their runs' "
                f"errors"
            )
        # What was kept counts in the published mean, and is not of this theta's generation in ours.
        published = self.rule == "published"
        judged = [*tried, *generation.kept] if published else tried
        mean = sum(entry.fitness for entry in judged) / len(judged)
        improved = mean > generation.best
        after = replace(
            generation,
            number=generation.number + 1,
            sigma=self.sigma * self.decay ** (generation.number + 1),
            best=max(mean, generation.best),
            best_mean=generation.mean if improved else generation.best_mean,
            discarded=generation.discarded + len(candidates) - len(tried),
            kept=(),
        )
        if self.accept == "improved" and not improved:
            count = max(2, 2 * (len(candidates) // 4 // 2))
            kept = best_candidates(judged, count) if published else best_pairs(tried, count // 2)
            return replace(after, kept=tuple(kept) if self.keep else ())
        move = self._move(generation, tried)
        return replace(after, mean=(torch.tensor(generation.mean, dtype=torch.float64) + move).tolist())

    def replay(self, generation: Generation, fitness: Mapping[Try, float | None]) -> None:
        """Nothing: a generation is all there is to know."""

    def points(self, generation: Generation) -> dict[str, tuple[Sequence[float], float]]:
        """Theta and sigma of the generation, by the name of its file."""
        return {generation_file(generation): (generation.mean, generation.sigma)}

    def point_of(self, generation: Generation, candidate: Try) -> str:
        """The name of a candidate's file: the generation's."""
        return generation_file(generation)

    def _tried(self, candidates: Sequence[Try], fitness: Mapping[Try, float | None]) -> list[Tried]:
        known = {
            candidate: value
            for candidate in candidates
            if (value := fitness.get(candidate)) is not None and math.isfinite(value)
        }
        return [
            Tried(candidate, known[candidate])
            for candidate in known
            if self.rule == "published" or replace(candidate, sign=-candidate.sign) in known
        ]

    def _move(self, generation: Generation, tried: Sequence[Tried]) -> Tensor:
        """What theta moves by."""
        counted, size = [*tried, *generation.kept], len(generation.mean)
        directions = torch.stack(
            [entry.candidate.sign * noise(entry.candidate.noise, size) for entry in counted]
        )
        fitness = torch.tensor([entry.fitness for entry in counted], dtype=torch.float64)
        if self.rule == "published":
            weights = fitness.clamp(min=0) / (len(tried) * generation.sigma)
            return self.step * (weights[:, None] * directions).sum(0)
        # Each pair stands here twice, with both signs.
        move = (shaped(fitness, self.shaping)[:, None] * directions).mean(0)
        longest = float(move.abs().max())
        return self.step * generation.sigma * move / max(longest, 1.0)


def generation_file(generation: Generation) -> str:
    """The name of a generation's file."""
    return f"generation_{generation.number:03d}.json"


def theta_of(numbers: Tensor, positivity: str) -> list[float]:
    """The unconstrained numbers that a positivity makes these of.

    Raises:
        ValueError: if it cannot give them.
    """
    forward, inverse = POSITIVITY[positivity]
    theta = inverse(numbers)
    if not torch.allclose(forward(theta), numbers, rtol=1e-9, atol=1e-12):
        raise ValueError(
            f"hydra.sweeper.search.positivity={positivity}: gives no negative numbers, and the start has "
            f"some; use positivity=none"
        )
    return theta.tolist()


def shaped(fitness: Tensor, shaping: str) -> Tensor:
    """Fitnesses, or their ranks, less their mean and over their standard deviation; zero where all are equal.

    Equal fitnesses share their ranks' mean.

    >>> shaped(torch.tensor([9.0, 1.0, 1.0, 1.0]), "scores").round(decimals=3)
    tensor([ 1.7320, -0.5770, -0.5770, -0.5770])
    >>> shaped(torch.tensor([0.3, 0.3]), "ranks")
    tensor([0., 0.])
    """
    if bool((fitness == fitness[0]).all()):
        return torch.zeros_like(fitness)
    if shaping == "ranks":
        below = (fitness[:, None] > fitness).sum(1) + (fitness[:, None] == fitness).sum(1) / 2
        fitness = below.to(fitness)
    centred = fitness - fitness.mean()
    return centred / centred.square().mean().sqrt()


def best_candidates(tried: Sequence[Tried], count: int) -> list[Tried]:
    """The candidates of the highest fitness."""
    return sorted(tried, key=lambda entry: -entry.fitness)[:count]


def best_pairs(tried: Sequence[Tried], count: int) -> list[Tried]:
    """The whole pairs whose better candidates have the highest fitness."""
    by_noise: dict[int, list[Tried]] = {}
    for entry in tried:
        by_noise.setdefault(entry.candidate.noise, []).append(entry)
    ranked = sorted(by_noise.values(), key=lambda pair: -max(entry.fitness for entry in pair))
    return [entry for pair in ranked[:count] for entry in pair]
