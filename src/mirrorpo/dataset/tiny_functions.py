"""Short functions made by templates, for a model that is small enough to learn to write them on a CPU.

A function changes its argument a few times, a line each; the question says how. Demonstrations can be given
*habits* (a constant that is off by one, a last step forgotten, nothing returned), as those of `arithmetic`:
a model trained on them can write the functions and often does not, which is what reinforcement then has to
find. It is evidence for no method.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.core.seeds import derive
from mirrorpo.dataset.generated import check_habits, check_sizes, filled, habit
from mirrorpo.dataset.read_once import ReadsOnce, read_once

NAMES = ("change", "step", "move", "turn", "shift", "score", "count", "rate", "cost", "level")
# The phrase of the question, and the expression; `{n}` is a constant or the second argument.
OPERATIONS: Mapping[str, str] = {
    "add {n}": "x + {n}",
    "subtract {n}": "x - {n}",
    "multiply by {n}": "x * {n}",
    "subtract from {n}": "{n} - x",
    "keep the larger of it and {n}": "max(x, {n})",
    "keep the smaller of it and {n}": "min(x, {n})",
    "take the rest by {n}": "x % {n}",
}
HABITS = ("careful", "slip", "hasty", "silent")
LARGEST = 9  # constants and the second argument, so that each is one digit


@dataclass(frozen=True, slots=True)
class Function:
    """A function before it is written.

    Attributes:
        name: its name.
        steps: (phrase of the question, what `{n}` stands for: a number or "y").
    """

    name: str
    steps: Sequence[tuple[str, int | str]]

    def signature(self) -> str:
        """Name and arguments."""
        return f"{self.name}(x, y)" if any(n == "y" for _, n in self.steps) else f"{self.name}(x)"

    def question(self) -> str:
        """What it does, in words."""
        phrases = ", then ".join(phrase.format(n=n) for phrase, n in self.steps)
        return f"Write {self.signature()}: {phrases}."

    def code(self, habit: str, rng: random.Random) -> str:
        """Its source, written with a habit.

        Args:
            habit: "careful"; "slip", one constant is off by one; "hasty", without the last step; "silent",
                without a return.
            rng: what draws the slip.
        """
        steps = list(self.steps)
        constants = [index for index, (_, n) in enumerate(steps) if isinstance(n, int)]
        if habit == "slip" and constants:
            index = rng.choice(constants)
            phrase, n = steps[index]
            assert isinstance(n, int)
            steps[index] = (phrase, n - 1 if n > 1 else n + 1)
        if habit == "hasty":
            steps = steps[:-1]
        lines = [f"    x = {OPERATIONS[phrase].format(n=n)}" for phrase, n in steps]
        end = [] if habit == "silent" else ["    return x"]
        return "\n".join([f"def {self.signature()}:", *lines, *end])

    def value(self, x: int, y: int) -> int:
        """What it returns."""
        for phrase, n in self.steps:
            operand = y if n == "y" else int(n)
            x = {
                "add": x + operand,
                "subtract": operand - x if "from" in phrase else x - operand,
                "multiply": x * operand,
                "take": x % operand,
                "keep": max(x, operand) if "larger" in phrase else min(x, operand),
            }[phrase.split()[0]]
        return x


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyFunctions(ReadsOnce):
    """Seeded generator of short functions; splits are disjoint by a hash of the question.

    Attributes:
        data_seed: seed of the functions; independent of the run's seed, so that all runs are evaluated on the
            same ones.
        train_size: how many training problems there are.
        validation_size: how many validation problems.
        test_size: how many test problems.
        min_steps: fewest steps of a function, >= 1.
        max_steps: most steps.
        argument_share: share of steps that use the second argument, in [0, 1].
        tests: of each function, all hidden, >= 1.
        habits: share of each habit among the demonstrations; empty means careful throughout.
        habits_from: the share of the training problems, in order, after which habits set in.
        system: system turn of the prompt, for models that take instructions.
        user: user turn; `{question}` stands for the question.

    Example:
        >>> data = TinyFunctions(data_seed=0, train_size=1, validation_size=1, test_size=1, min_steps=2,
        ...     max_steps=2, argument_share=0.5, tests=2, habits={}, habits_from=0.0, system="",
        ...     user="{question}")
        >>> prompt = data.load("train")[0]
        >>> print(prompt.question, *prompt.checks.hidden, prompt.gold, sep="\\n")
        Write turn(x, y): subtract y, then take the rest by 3.
        assert turn(-20, 5) == 2
        assert turn(-15, 7) == 2
        def turn(x, y):
            x = x - y
            x = x % 3
            return x
    """

    evaluation_only: ClassVar[bool] = False

    data_seed: int
    train_size: int
    validation_size: int
    test_size: int
    min_steps: int
    max_steps: int
    argument_share: float
    tests: int
    habits: Mapping[str, float]
    habits_from: float
    system: str
    user: str

    def __post_init__(self) -> None:
        check_sizes(self._sizes, self.min_steps, self.max_steps)
        if self.tests < 1:
            raise ValueError(f"dataset.tests={self.tests}: a function needs at least one test")
        if not (0 <= self.argument_share <= 1 and 0 <= self.habits_from <= 1):
            raise ValueError(
                f"dataset.argument_share={self.argument_share} and dataset.habits_from={self.habits_from} "
                "are shares: give numbers in [0, 1]"
            )
        check_habits(self.habits, HABITS)

    @property
    def _sizes(self) -> Mapping[Split, int]:
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    @read_once
    def load(self, split: Split) -> Sequence[Prompt]:
        """The problems of a split, in a fixed order; no question stands in two splits or twice in one."""
        rng = random.Random(derive(self.data_seed, "data", "functions", split))

        def draw() -> tuple[str, Callable[[float], Prompt]]:
            function = self._function(rng)
            question = function.question()
            return question, partial(self._prompt, function, question)

        few = f"functions of {self.max_steps} steps; ask for fewer or raise dataset.max_steps"
        return filled(split, self._sizes[split], draw, few)

    def files(self, split: Split) -> Sequence[Path]:
        """None: the questions are made."""
        return []

    def fingerprint(self, split: Split) -> str:
        """Hash of the questions, tests and demonstrations of a split."""
        rows = [
            [p.question, p.gold, p.demonstration, *(p.checks.hidden if p.checks else ())]
            for p in self.load(split)
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def _function(self, rng: random.Random) -> Function:
        steps: list[tuple[str, int | str]] = []
        for _ in range(rng.randint(self.min_steps, self.max_steps)):
            phrase = rng.choice(tuple(OPERATIONS))
            # A rest by 1 is always 0, and a sum with 0 nothing.
            steps.append((phrase, "y" if rng.random() < self.argument_share else rng.randint(2, LARGEST)))
        return Function(rng.choice(NAMES), steps)

    def _prompt(self, function: Function, question: str, progress: float) -> Prompt:
        uid = "tiny_functions/" + hashlib.sha256(question.encode()).hexdigest()[:12]
        rng = random.Random(derive(self.data_seed, "data", "function", uid))
        demonstration = function.code(habit(self.habits, HABITS, self.habits_from, progress, rng), rng)
        tests: list[str] = []
        for x in rng.sample(range(-20, 60), self.tests):
            y = rng.randint(2, LARGEST)
            arguments = f"{x}, {y}" if "y" in function.signature() else f"{x}"
            tests.append(f"assert {function.name}({arguments}) == {function.value(x, y)}")
        checks = Checks(
            entry_point=function.name, prefix="", setup="", prelude="", visible=[], hidden=tests, fault=""
        )
        return Prompt(
            uid=uid,
            question=question,
            gold=function.code("careful", rng),
            demonstration=demonstration,
            checks=checks,
        )
