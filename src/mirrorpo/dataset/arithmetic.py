"""Word problems made by templates, with worked steps in GSM8K's format.

A problem starts with a quantity and changes it a few times; some problems mention a second person
whose number does not matter. The answer works through the changes one line each and ends in
`#### n`. Demonstrations can be given *habits* (adding the number that does not matter, slipping in
a sum, answering without steps): they make the shipped tiny model skilled but careless, which is
what reinforcement then has to find.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Assembly, Inert, Split
from mirrorpo.core.seeds import derive
from mirrorpo.dataset.generated import check_habits, check_sizes, filled, habit, prompts_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.start_model import demonstrated

NAMES = ("Sam", "Zoe", "Mia", "Leo", "Ana", "Ben", "Ivy", "Max", "Eva", "Tom")
OBJECTS = ("apples", "toys", "books", "coins", "cards", "pens", "shells", "stamps", "eggs", "cakes")
SENTENCES: Mapping[str, Sequence[str]] = {
    "+": ("{name} buys {n} more.", "{name} finds {n} more.", "{name} gets {n} more."),
    "-": ("{name} gives away {n}.", "{name} loses {n}.", "{name} sells {n}."),
    "*": ("Soon {name} has {n} times as many.",),
    "/": ("{name} keeps 1 of {n} equal parts.",),
}
HABITS = ("careful", "distracted", "slip", "direct")


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem before it is put into words.

    Attributes:
        name: who has the things.
        thing: what is counted.
        start: the first quantity.
        changes: (operation, number) in the order they happen.
        distractor: (position among the changes, other name, other thing, number), or None.
    """

    name: str
    thing: str
    start: int
    changes: Sequence[tuple[str, int]]
    distractor: tuple[int, str, str, int] | None

    def question(self) -> str:
        """The problem in words; the wording of each change is fixed by its number."""
        sentences = [f"{self.name} has {self.start} {self.thing}."]
        for operation, n in self.changes:
            choices = SENTENCES[operation]
            sentences.append(choices[n % len(choices)].format(name=self.name, n=n))
        if self.distractor is not None:
            position, other, thing, n = self.distractor
            sentences.insert(position + 1, f"{other} has {n} {thing}.")
        return " ".join([*sentences, f"How many {self.thing} does {self.name} have?"])

    def answer(self) -> int:
        """The gold answer."""
        value = self.start
        for operation, n in self.changes:
            value = apply(operation, value, n)
        return value

    def worked(self, habit: str, rng: random.Random) -> str:
        """A worked answer in GSM8K's format, written with the given habit.

        Args:
            habit: "careful", every change once, right; "distracted", the number that does not matter is
                added where it is mentioned (careful when there is none); "slip", one result is off by 1 or
                10 and the error is carried on; "direct", the answer without steps.
            rng: what draws the slip.
        """
        if habit == "direct":
            return f"#### {self.answer()}"
        changes = list(self.changes)
        if habit == "distracted" and self.distractor is not None:
            changes.insert(self.distractor[0], ("+", self.distractor[3]))
        slip = rng.randrange(len(changes)) if habit == "slip" else -1
        value, lines = self.start, []
        for index, (operation, n) in enumerate(changes):
            # A distracted sum need not be divisible; the habit then rounds down, as its writer would not
            # notice.
            result = apply(operation, value, n)
            if index == slip:
                result += rng.choice([error for error in (-10, -1, 1, 10) if result + error > 0])
            lines.append(
                f"{self.name} has {value} {operation} {n} = <<{value}{operation}{n}={result}>>{result} "
                f"{self.thing}."
            )
            value = result
        return "\n".join([*lines, f"#### {value}"])


def apply(operation: str, value: int, n: int) -> int:
    """The quantity after one change, never below zero.

    Example:
        >>> apply("+", 18, 30), apply("/", 48, 2)
        (48, 24)
    """
    match operation:
        case "+":
            return value + n
        case "-":
            return max(value - n, 0)
        case "*":
            return value * n
        case _:
            return value // n


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic(ReadsOnce):
    """Seeded generator of multi-step word problems; splits are disjoint by a hash of the problem.

    Attributes:
        data_seed: seed of the problems; independent of the run's seed, so that all runs are
            evaluated on the same questions.
        train_size: how many training problems there are.
        validation_size: how many validation problems.
        test_size: how many test problems.
        min_steps: fewest changes in a problem, >= 1.
        max_steps: most changes in a problem.
        max_value: no quantity on the way to the answer exceeds this.
        distractor_share: share of problems that mention a number that does not matter, in [0, 1].
        habits: share of each habit among the demonstrations; empty means careful throughout.
        habits_from: the share of the training problems, in order, after which habits set in.
        system: system turn of the prompt, for models that take instructions.
        user: user turn; `{question}` stands for the question.

    Example:
        >>> data = Arithmetic(data_seed=0, train_size=2, validation_size=1, test_size=1, min_steps=2,
        ...     max_steps=2, max_value=50, distractor_share=0.0, habits={}, habits_from=0.0, system="",
        ...     user="{question}")
        >>> print(data.load("train")[0].demonstration.splitlines()[-1].split()[0])
        ####
    """

    evaluation_only: ClassVar[bool] = False

    data_seed: int
    train_size: int
    validation_size: int
    test_size: int
    min_steps: int
    max_steps: int
    max_value: int
    distractor_share: float
    habits: Mapping[str, float]
    habits_from: float
    system: str
    user: str

    def __post_init__(self) -> None:
        check_sizes(self._sizes, self.min_steps, self.max_steps)
        if self.max_value < 10:
            raise ValueError(f"dataset.max_value={self.max_value}: the templates need at least 10")
        if not 0 <= self.distractor_share <= 1:
            raise ValueError(
                f"dataset.distractor_share={self.distractor_share} is a share: give a number in [0, 1]"
            )
        if not 0 <= self.habits_from <= 1:
            raise ValueError(
                f"dataset.habits_from={self.habits_from} is a share of the training problems: "
                "give a number in [0, 1]"
            )
        check_habits(self.habits, HABITS)

    @property
    def _sizes(self) -> Mapping[Split, int]:
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    @read_once
    def load(self, split: Split) -> Sequence[Prompt]:
        """The problems of a split, in a fixed order; no question stands in two splits or twice in one."""
        rng = random.Random(derive(self.data_seed, "data", "problems", split))

        def draw() -> tuple[str, Callable[[float], Prompt]]:
            problem = self._problem(rng)
            question = problem.question()
            return question, partial(self._prompt, problem, question)

        limits = f"max_value={self.max_value} and max_steps={self.max_steps}"
        few = f"problems with {limits}; ask for fewer or raise them"
        return filled(split, self._sizes[split], draw, few)

    def files(self, split: Split) -> Sequence[Path]:
        """None: the questions are made."""
        return []

    def fingerprint(self, split: Split) -> str:
        """Hash of the questions and demonstrations of a split."""
        return prompts_hash(self.load(split))

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Habits that nothing is taught."""
        if group == "dataset" and self.habits and (entries := list(self.inert(group, assembly))):
            yield f"{entries[0].reason}; set algo=sft to train on them"

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What demonstrations alone have."""
        return demonstrated(("habits", "habits_from"), group, assembly)

    def _prompt(self, problem: Problem, question: str, progress: float) -> Prompt:
        uid = "arithmetic/" + hashlib.sha256(question.encode()).hexdigest()[:12]
        rng = random.Random(derive(self.data_seed, "data", "habits", uid))
        demonstration = problem.worked(habit(self.habits, HABITS, self.habits_from, progress, rng), rng)
        return Prompt(uid=uid, question=question, gold=str(problem.answer()), demonstration=demonstration)

    def _problem(self, rng: random.Random) -> Problem:
        name, other = rng.sample(NAMES, 2)
        thing, other_thing = rng.sample(OBJECTS, 2)
        start = value = rng.randint(2, self.max_value)
        changes: list[tuple[str, int]] = []
        for _ in range(rng.randint(self.min_steps, self.max_steps)):
            operation, n = rng.choice(self._possible(value, rng))
            changes.append((operation, n))
            value = apply(operation, value, n)
        distractor = None
        if rng.random() < self.distractor_share:
            distractor = (
                rng.randint(0, len(changes) - 1),
                other,
                rng.choice((thing, other_thing)),
                rng.randint(2, self.max_value),
            )
        return Problem(name, thing, start, changes, distractor)

    def _possible(self, value: int, rng: random.Random) -> list[tuple[str, int]]:
        # One candidate per operation that keeps the quantity a whole number in 1..max_value.
        possible: list[tuple[str, int]] = []
        if value < self.max_value:
            possible.append(("+", rng.randint(1, self.max_value - value)))
        if value > 1:
            possible.append(("-", rng.randint(1, value - 1)))
        factors = [n for n in range(2, 6) if value * n <= self.max_value]
        divisors = [n for n in range(2, 6) if value % n == 0]
        possible += [("*", rng.choice(factors))] if factors else []
        possible += [("/", rng.choice(divisors))] if divisors else []
        return possible
