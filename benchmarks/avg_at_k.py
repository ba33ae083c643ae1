"""What averaging k sampled answers buys against one greedy answer, on sweeps with a planted truth.

python benchmarks/avg_at_k.py                          # 2,000 sweeps a row
python benchmarks/avg_at_k.py --sweeps 200 --effect 3

Two arms whose difference is known are answered question by question and compared as a report compares them;
the share of sweeps that claim a difference is the power where there is one, and the rate of false claims
where there is none.

    logit p = level + difficulty_q + bias_aq + luck_as + wobble_asq

Difficulties of questions have the standard deviation 1.5 on the logit, what an arm makes of a question 0.5,
and what a seed makes of it 0.5 again; luck of a seed spreads its accuracy by 1.5 points, or by 0.5. Sampled
answers are right with chance p. A greedy answer is right with the chance whose logit is `sharpness` times as
large: 1 is a single draw, above it the model's likelier answer.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from analysis.study.comparison import difference  # noqa: E402

ACCURACY = 0.6
DIFFICULTY, BIAS, WOBBLE = 1.5, 0.5, 0.5
LEVEL = 0.05
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an arm is evaluated.

    Attributes:
        questions: how many.
        k: sampled answers to each; 0 is one greedy answer.
        seeds: of each arm.
        sharpness: of greedy answers.
        luck: standard deviation of a seed's accuracy, in points.
    """

    questions: int
    k: int
    seeds: int
    sharpness: float = 1.0
    luck: float = 1.5

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"avg@{self.k}" if self.k else f"greedy, sharpness {self.sharpness:g}"

    @property
    def answers(self) -> int:
        """Of a run."""
        return self.questions * max(1, self.k)


def greedy(questions: int, seeds: int, sharpness: float, luck: float = 1.5) -> Evaluation:
    """One greedy answer to each question."""
    return Evaluation(questions=questions, k=0, seeds=seeds, sharpness=sharpness, luck=luck)


def averaged(questions: int, k: int, seeds: int, luck: float = 1.5) -> Evaluation:
    """k sampled answers to each question."""
    return Evaluation(questions=questions, k=k, seeds=seeds, luck=luck)


# Tables: what is held equal, and the evaluations.
TABLES: Sequence[tuple[str, Sequence[Evaluation]]] = (
    (
        "500 questions, 5 seeds",
        [greedy(500, 5, 1), greedy(500, 5, 3), *(averaged(500, k, 5) for k in (2, 4, 8, 16))],
    ),
    (
        "500 questions, 5 seeds whose luck is 0.5 points",
        [greedy(500, 5, 1, 0.5), greedy(500, 5, 3, 0.5), *(averaged(500, k, 5, 0.5) for k in (4, 8, 16))],
    ),
    (
        "4,000 answers a run, 5 seeds",
        [
            greedy(4000, 5, 1),
            greedy(4000, 5, 3),
            averaged(1000, 4, 5),
            averaged(500, 8, 5),
            averaged(250, 16, 5),
        ],
    ),
    (
        "more seeds in place of samples, 500 questions",
        [*(greedy(500, seeds, 3) for seeds in (5, 7, 9, 12)), averaged(500, 8, 5), averaged(500, 8, 3)],
    ),
)


@cache
def level_and_slope(accuracy: float) -> tuple[float, float]:
    """The level at which the expected accuracy is this, and how steep accuracy is in it."""
    spread = (DIFFICULTY**2 + BIAS**2 + WOBBLE**2) ** 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        below = float(weights @ _chance(middle + spread * nodes)) < accuracy
        low, high = (middle, high) if below else (low, middle)
    p = _chance(low + spread * nodes)
    return low, float(weights @ (p * (1 - p)))


def _chance(logit: Scores) -> Scores:
    return 1 / (1 + np.exp(-logit))


def arm(rng: np.random.Generator, difficulty: Scores, accuracy: float, how: Evaluation) -> Scores:
    """scores[seed, question] of an arm whose expected accuracy of samples is known."""
    level, slope = level_and_slope(accuracy)
    shape = (how.seeds, how.questions)
    logit = level + difficulty + rng.normal(0, BIAS, how.questions)
    logit = logit + rng.normal(0, how.luck / 100 / slope, (how.seeds, 1)) + rng.normal(0, WOBBLE, shape)
    if how.k:
        return rng.binomial(how.k, _chance(logit)) / how.k
    return (rng.random(shape) < _chance(how.sharpness * logit)).astype(float)


def claims(how: Evaluation, effect: float, sweeps: int, seed: int) -> tuple[float, float]:
    """The share of sweeps that call the second arm better, and that which call it worse.

    Args:
        how: the evaluation.
        effect: what the second arm has more, in points of the expected accuracy of samples.
        sweeps: how many.
        seed: of all of them.
    """
    rng, better, worse = np.random.default_rng(seed), 0, 0
    for _ in range(sweeps):
        difficulty = rng.normal(0, DIFFICULTY, how.questions)
        base = arm(rng, difficulty, ACCURACY, how)
        ours = arm(rng, difficulty, ACCURACY + effect / 100, how)
        result = difference(ours, base)
        better += result.p < LEVEL and result.interval.estimate > 0
        worse += result.p < LEVEL and result.interval.estimate < 0
    return better / sweeps, worse / sweeps


def main() -> None:
    """Print a table for each thing that is held equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=2000, help="planted sweeps a row")
    parser.add_argument("--effect", type=float, default=2.0, help="points between the arms")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    error = 100 * (LEVEL * (1 - LEVEL) / args.sweeps) ** 0.5
    print(f"{args.sweeps} sweeps a row; standard error of a false claim's rate {error:.1f} points")
    for title, evaluations in TABLES:
        heads = (
            "questions",
            "seeds",
            "answers a run",
            f"+{args.effect:g} found",
            "wrong sign",
            "false claims",
        )
        print(f"\n**{title}**\n\n| | {' | '.join(heads)} |\n|---{'|---:' * len(heads)}|")
        for how in evaluations:
            found, wrong = claims(how, args.effect, args.sweeps, args.seed)
            false = sum(claims(how, 0.0, args.sweeps, args.seed + 1))
            cells = [how.name, *map(str, (how.questions, how.seeds, how.answers))]
            cells += [f"{share:.1%}" for share in (found, wrong, false)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
