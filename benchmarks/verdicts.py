"""How often verdicts and intervals are right, by the rule they follow, on sweeps with a planted truth.

python benchmarks/verdicts.py                # 2,000 sweeps a row, 1,000 where there are 1,000 questions
python benchmarks/verdicts.py --sweeps 400

Two arms are answered question by question, right or wrong, by seeds whose accuracy has a spread in points:

    p_asq = p_aq + luck_as p_aq (1 - p_aq) / mean(p (1 - p)),  logit p_aq = level + difficulty_q + bias_aq

Difficulties of questions have the standard deviation 1.5 on the logit, what an arm makes of a question 0.5.
Rules are compared on the same sweeps:

    old       one t test for new seeds and questions; where the estimate of its variance falls below that of
              one of them, that one alone with its degrees of freedom ("the branch")
    Student   t over seeds
    two       the larger p of Satterthwaite's and Student's
    three     the largest p of Satterthwaite's, that of seeds alone and that of questions alone: the rule

Without an effect, the share of claims at 5% is the level, and one minus it the interval's coverage; within
the branch it is that among the sweeps that fall into it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from analysis.stats.crossed import Crossed, StandardError, crossed_error, tail  # noqa: E402

DIFFICULTY, BIAS, LEVEL, EFFECT = 1.5, 0.5, 0.05, 2.0
SPREADS, QUESTIONS, SEEDS = (0.0, 0.5, 1.5, 3.0), (100, 1000), (3, 5, 10)
RULES = ("old", "Student", "two", "three")
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Arms:
    """Two arms.

    Attributes:
        name: what a table calls them.
        accuracy: of both.
        correlation: of the luck of their seeds.
        ratio: of the spreads of their seeds.
    """

    name: str
    accuracy: float
    correlation: float = 0.0
    ratio: float = 1.0


ARMS: Sequence[Arms] = (
    Arms("alike, accuracy 85%", 0.85),
    Arms("luck correlated by 0.6, spreads 1 to 4, accuracy 70%", 0.7, 0.6, 4.0),
    Arms("accuracy 97%", 0.97),
    Arms("accuracy 3%", 0.03),
)


@cache
def level_and_slope(accuracy: float) -> tuple[float, float]:
    """The level at which the expected accuracy is this, and the mean of p (1 - p) there."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights, logit = weights / weights.sum(), np.hypot(DIFFICULTY, BIAS) * nodes
    low, high = -15.0, 15.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ _chance(middle + logit) < accuracy else (low, middle)
    p = _chance(low + logit)
    return low, float(weights @ (p * (1 - p)))


def _chance(logit: Scores) -> Scores:
    return 1 / (1 + np.exp(-logit))


def gap(rng: np.random.Generator, arms: Arms, spread: float, shape: tuple[int, int], effect: float) -> Scores:
    """Differences[seed, question] of a sweep; spread and effect in points."""
    level, slope = level_and_slope(arms.accuracy)
    seeds, questions = shape
    difficulty, common = rng.normal(0, DIFFICULTY, questions), rng.normal(size=seeds)
    answers: list[Scores] = []
    for scale, above in ((arms.ratio**0.5, effect), (arms.ratio**-0.5, 0.0)):
        p = _chance(level + difficulty + rng.normal(0, BIAS, questions))
        luck = arms.correlation**0.5 * common + (1 - arms.correlation) ** 0.5 * rng.normal(size=seeds)
        shift = (scale * spread * luck + above) / 100 / slope
        answers.append((rng.random(shape) < p + shift[:, None] * p * (1 - p)).astype(float))
    return answers[0] - answers[1]


def p_values(gaps: Scores) -> tuple[Mapping[str, float], bool]:
    """Two-sided p by each rule, and whether the old one falls back on one error alone."""
    seeds, questions = gaps.shape
    crossed, distance = crossed_error(gaps), abs(float(gaps.mean()))
    largest = max(crossed.seeds, crossed.questions)
    branch = crossed.both.size <= largest.size
    errors: Mapping[str, Sequence[StandardError]] = {
        "old": [largest if branch else _textbook(crossed, seeds, questions)],
        "Student": [crossed.seeds],
        "two": [crossed.both, crossed.seeds],
        "three": crossed.errors,
    }
    return {rule: 2 * tail(distance, sizes) if distance else 1.0 for rule, sizes in errors.items()}, branch


def _textbook(crossed: Crossed, seeds: int, questions: int) -> StandardError:
    a, b, total = (error.size**2 for error in (crossed.seeds, crossed.questions, crossed.both))
    parts = a**2 / (seeds - 1) + b**2 / (questions - 1)
    parts += (a + b - total) ** 2 / ((seeds - 1) * (questions - 1))
    return StandardError(crossed.both.size, total**2 / parts)


@dataclass(frozen=True)
class Rates:
    """Shares of claims at the level by rule: without an effect, within the branch, and with an effect."""

    branch: float
    level: Mapping[str, float]
    within: Mapping[str, float]
    power: Mapping[str, float]


def rates(arms: Arms, spread: float, shape: tuple[int, int], sweeps: int, seed: int = 0) -> Rates:
    """Simulate so many sweeps without an effect and with one."""
    rng = np.random.default_rng([seed, round(10 * spread), *shape])
    null = [p_values(gap(rng, arms, spread, shape, 0.0)) for _ in range(sweeps)]
    inside = [p for p, branch in null if branch]
    effect = [p_values(gap(rng, arms, spread, shape, EFFECT))[0] for _ in range(sweeps)]
    return Rates(len(inside) / sweeps, claims([p for p, _ in null]), claims(inside), claims(effect))


def claims(p_by_sweep: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The share of p-values below the level, by rule; NaN of no sweep."""
    return {
        rule: float(np.mean([p[rule] < LEVEL for p in p_by_sweep])) if p_by_sweep else float("nan")
        for rule in RULES
    }


def percents(shares: Mapping[str, float], rules: Sequence[str] = RULES) -> str:
    """Shares as cells of a table."""
    return " | ".join("" if shares[rule] != shares[rule] else f"{100 * shares[rule]:.1f}" for rule in rules)


def main() -> None:
    """Print a table for each pair of arms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sweeps", type=int, default=2000, help="planted sweeps a row, half of 1,000 questions"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    few = ("old", "three")
    heads = ["spread", "questions", "seeds", *(f"level, {rule}" for rule in RULES), "in the branch"]
    heads += [f"level there, {rule}" for rule in few] + [f"+{EFFECT:g} found, {rule}" for rule in RULES]
    for arms in ARMS:
        print(f"\n**{arms.name}**\n\n| {' | '.join(heads)} |\n{'|---:' * len(heads)}|")
        for spread in SPREADS:
            for questions in QUESTIONS:
                for seeds in SEEDS:
                    sweeps = args.sweeps if questions < 1000 else args.sweeps // 2
                    made = rates(arms, spread, (seeds, questions), sweeps, args.seed)
                    cells = [f"{spread:g}", f"{questions:,}", str(seeds), percents(made.level)]
                    cells += [f"{made.branch:.0%}", percents(made.within, few), percents(made.power)]
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
