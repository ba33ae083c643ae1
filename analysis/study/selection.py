"""Which settings an arm gets: the best of its candidates by an endpoint, on seeds that no comparison uses.

The rule: the highest mean over the seeds; of equal ones the smaller value of the first setting, then of the
next. What a second sweep measures with the chosen settings on other seeds is free of the choice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from analysis.stats.distributions import student_quantile
from analysis.stats.intervals import LEVEL

Value = float | int | str | bool | None
# Means that differ by less are equal: sums in another order.
EQUAL = 1e-12


def shown(value: object) -> str:
    """A setting's value as it is typed.

    Example:
        >>> shown(None), shown(0.5)
        ('null', '0.5')
    """
    return "null" if value is None else str(value)


def named(settings: Mapping[str, object]) -> str:
    """Settings with their values."""
    return " ".join(f"{key}={shown(value)}" for key, value in settings.items())


def is_number(value: object) -> TypeGuard[float]:
    """Whether there are smaller and larger ones: not of null, text, true and false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Settings that were tried for an arm.

    Attributes:
        settings: by dotted key; a key that the arm does not have is absent.
        by_seed: the endpoint.
    """

    settings: Mapping[str, Value]
    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean([self.by_seed[seed] for seed in sorted(self.by_seed)]))

    def __str__(self) -> str:
        return named(self.settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What an arm gets.

    Attributes:
        arm: a choice on the axis.
        candidates: the chosen one first, then by their means.
        noise: half the 95% interval of a difference between two of them that are chosen beforehand; None
            where it is not known (one seed, or one candidate).
        edges: settings of which the chosen value is the least or the largest that was tried, as sentences.
    """

    arm: str
    candidates: Sequence[Candidate]
    noise: float | None
    edges: Sequence[str]

    @property
    def best(self) -> Candidate:
        """The chosen one."""
        return self.candidates[0]

    @property
    def tied(self) -> list[Candidate]:
        """Others that are as good."""
        return [other for other in self.candidates[1:] if _equal(other.mean, self.best.mean)]

    @property
    def near(self) -> list[Candidate]:
        """Others from which the chosen one is not told apart."""
        noise = self.noise
        if noise is None:
            return []
        best = self.best.mean
        return [other for other in self.candidates[1:] if abs(best - other.mean) <= noise]

    @property
    def remarks(self) -> list[str]:
        """What has to be said of it: edges, ties, noise."""
        count = len(self.candidates) - 1
        out = list(self.edges)
        if self.tied:
            out.append(f"tied with {', '.join(map(str, self.tied))}; the smaller value is taken")
        if count and self.noise is None:
            out.append("one seed: whether the choice is within noise is not known")
        elif self.near:
            out.append(
                f"within noise: {len(self.near)} of the {count} others are within {self.noise:.3g} of it"
            )
        return out


def choose(arm: str, candidates: Sequence[Candidate], over: Sequence[str], *, higher: bool = True) -> Choice:
    """The best candidate of an arm, by the rule above.

    Args:
        arm: a choice on the axis.
        candidates: at least one, all with the same seeds.
        over: the settings, those first whose smaller value breaks a tie.
        higher: whether more of the endpoint is better.

    Raises:
        ValueError: if there is none, or one lacks a seed.
    """
    if not candidates:
        raise ValueError(f"{arm}: no candidate")
    seeds = sorted({seed for candidate in candidates for seed in candidate.by_seed})
    for candidate in candidates:
        # What is not a number says nothing, and sorts anywhere.
        if missing := [
            str(seed) for seed in seeds if not math.isfinite(candidate.by_seed.get(seed, math.nan))
        ]:
            raise ValueError(f"{arm} {candidate}: no value of seed {', '.join(missing)}")
    sign = -1.0 if higher else 1.0
    ranked = sorted(candidates, key=lambda candidate: (sign * candidate.mean, _order(candidate, over)))
    tied = [candidate for candidate in ranked if _equal(candidate.mean, ranked[0].mean)]
    best = min(tied, key=lambda candidate: _order(candidate, over))
    values = np.array([[candidate.by_seed[seed] for seed in seeds] for candidate in candidates])
    others = [candidate for candidate in ranked if candidate is not best]
    return Choice(
        arm=arm, candidates=[best, *others], noise=_noise(values), edges=_edges(best, candidates, over)
    )


def imbalance(choices: Sequence[Choice]) -> str:
    """That arms had different numbers of candidates; "" where none was tuned more than another.

    Example:
        >>> one = Candidate(settings={"lr": 1.0}, by_seed={0: 1.0})
        >>> imbalance([choose("a", [one], ["lr"]), choose("b", [one], ["lr"])])
        ''
    """
    by_count: dict[int, list[str]] = {}
    for choice in choices:
        by_count.setdefault(len(choice.candidates), []).append(choice.arm)
    if len(by_count) < 2:
        return ""
    counts = "; ".join(f"{', '.join(by_count[count])} {count}" for count in sorted(by_count))
    return f"arms had different numbers of candidates, and one with more is tuned more: {counts}"


def _noise(values: np.ndarray) -> float | None:
    """Half the 95% interval of a difference between two rows' means.

    From what is left of values[candidate, seed] when candidates and seeds have their means taken away, taken
    to spread alike in all candidates.
    """
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if not freedom:
        return None
    left = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    variance = float((left**2).sum()) / freedom
    return student_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(2 * variance / values.shape[1])


def _edges(best: Candidate, candidates: Sequence[Candidate], over: Sequence[str]) -> list[str]:
    out: list[str] = []
    for key in over:
        values = [candidate.settings.get(key) for candidate in candidates]
        tried = {value for value in values if is_number(value)}
        chosen = best.settings.get(key)
        if len(tried) < 2 or not is_number(chosen):
            continue
        for edge, name in ((min(tried), "least"), (max(tried), "largest")):
            if chosen == edge:
                out.append(f"at the edge: {key}={chosen} is the {name} of {len(tried)} that were tried")
    return out


def order(value: object) -> tuple[int, float, str]:
    """A key by which values of a setting are sorted: numbers first, false before true, then the others.

    Example:
        >>> sorted(["b", None, 2.0, "a", 1], key=order)
        [1, 2.0, None, 'a', 'b']
    """
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, "" if value is None else str(value)


def _order(candidate: Candidate, over: Sequence[str]) -> list[tuple[int, float, str]]:
    return [order(candidate.settings.get(key)) for key in over]


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=EQUAL, abs_tol=EQUAL)
