"""Facts in a ledger, of which the question says which one matters: a planted world in which credit has room.

    ask amber c          a tag without meaning, and a letter
    a 7 + 0 = 7          each letter's digit is a free choice among the letter's options
    b 2 + 0 = 2
    c 4 + 0 = 4          this line decides, since c was asked for
    #### 4

One option of each letter is right, and demonstrations choose at random. So after `algo=sft` each letter is
a fact that is still to be learned, and the answer copies its line. The lines of the other letters get the
completion's advantage too, in the very parameters that hold their facts: noise of zero mean, which a
weighting can take away by crediting the line that decides.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Assembly, Inert, Split
from mirrorpo.core.seeds import derive
from mirrorpo.core.token_offsets import Interval
from mirrorpo.dataset.generated import prompts_hash
from mirrorpo.dataset.letter_questions import (
    LETTERS,
    TAGS,
    check_held_out,
    check_ranges,
    letter_questions,
)
from mirrorpo.dataset.settings import check_user
from mirrorpo.dataset.start_model import StartModel, demonstrated

# Lines of a short demonstration, the deciding one among them.
SHORT_LINES = 3
SHIPPED = StartModel(
    path="mirrorpo:ledger",
    scratch="ledger_scratch",
    made_with={"data_seed": 0, "letters": 8, "choices": 4, "copies": 1, "distance": 0, "distractors": 0},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Seeded generator of ledgers; questions are all pairs of a tag and a letter, divided into splits.

    Attributes:
        data_seed: seed of facts, splits and demonstrations; independent of the run's seed.
        letters: facts of a ledger, in [2, 16].
        choices: options of a letter's digit, one of them right, in [2, 10].
        copies: how often the ledger is written, each time with the same digits, >= 1; with more than one,
            hiding a single line hides nothing.
        distance: lines without content between ledger and answer, >= 0.
        distractors: letters, from the one that was asked for onwards, that have an `old` line before their
            own with a digit that decides nothing, at most `letters`.
        validation_size: questions held out for validation.
        test_size: questions held out for the test; all others are for training.
        demonstrations: of each training question, each with digits of its own, >= 1.
        short_until: the share of the demonstrations, in order, with lines for three letters only, from which
            copying is learned sooner.
        system: system turn of the prompt.
        user: user turn; `{question}` stands for the question.

    Raises:
        ValueError: on a setting out of range.

    Example:
        >>> data = Ledger(data_seed=0, letters=3, choices=4, copies=1, distance=1, distractors=1,
        ...     validation_size=8, test_size=8, demonstrations=1, short_until=0.0, system="",
        ...     user="{question}")
        >>> prompt = data.load("train")[0]
        >>> print(prompt.question, prompt.demonstration, prompt.gold, sep="\\n")
        ask north c
        a 2 + 0 = 2
        b 0 + 0 = 0
        old c 5 + 0 = 5
        c 4 + 0 = 4
        wait
        #### 4
        2
        >>> [prompt.demonstration[slice(*span)] for span in data.deciding(prompt, prompt.demonstration)]
        ['c 4 + 0 = 4']
    """

    evaluation_only: ClassVar[bool] = False

    data_seed: int
    letters: int
    choices: int
    copies: int
    distance: int
    distractors: int
    validation_size: int
    test_size: int
    demonstrations: int
    short_until: float
    system: str
    user: str

    def __post_init__(self) -> None:
        ranges = (
            ("letters", self.letters, 2, len(LETTERS)),
            ("choices", self.choices, 2, 10),
            ("copies", self.copies, 1, 100),
            ("distance", self.distance, 0, 100),
            ("distractors", self.distractors, 0, self.letters),
            ("demonstrations", self.demonstrations, 1, 10**6),
            ("validation_size", self.validation_size, 1, len(TAGS) * self.letters),
            ("test_size", self.test_size, 1, len(TAGS) * self.letters),
        )
        check_ranges(ranges)
        check_held_out(self.letters, self.validation_size, self.test_size)
        if not 0 <= self.short_until <= 1:
            raise ValueError(
                f"dataset.short_until={self.short_until} is a share of the demonstrations: "
                "give a number in [0, 1]"
            )
        check_user(self.user)

    def load(self, split: Split) -> Sequence[Prompt]:
        """The questions of a split, in a fixed order; no question stands in two splits."""
        questions = letter_questions(
            split,
            letters=self.letters,
            validation_size=self.validation_size,
            test_size=self.test_size,
            seed=derive(self.data_seed, "data", "ledger"),
        )
        copies = self.demonstrations if split == "train" else 1
        count = len(questions) * copies
        return [
            self._prompt(tag, letter, copy, (copy * len(questions) + index) / count)
            for copy in range(copies)
            for index, (tag, letter) in enumerate(questions)
        ]

    def files(self, split: Split) -> Sequence[Path]:
        """None: the questions are made."""
        return []

    def fingerprint(self, split: Split) -> str:
        """Hash of the questions, golds and demonstrations of a split."""
        return prompts_hash(self.load(split))

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The shipped start model is for the settings that it was made with."""
        return SHIPPED.requirements(group, assembly)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A start model that was made with others."""
        return SHIPPED.notes(group, assembly)

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """What demonstrations alone have."""
        return demonstrated(("copies", "distance", "distractors", "short_until"), group, assembly)

    def deciding(self, prompt: Prompt, text: str) -> Sequence[Interval]:
        """The lines of the letter that was asked for, as intervals of characters."""
        line = re.compile(rf"^{asked_letter(prompt)} [^\n]*", re.MULTILINE)
        return [match.span() for match in line.finditer(text)]

    def options(self, letter: str) -> Sequence[int]:
        """The digits that a letter's demonstrations choose from, the right one first."""
        rng = random.Random(derive(self.data_seed, "data", "ledger_options", letter))
        return rng.sample(range(10), self.choices)

    def _prompt(self, tag: str, letter: str, copy: int, progress: float) -> Prompt:
        question = f"ask {tag} {letter}"
        rng = random.Random(derive(self.data_seed, "data", "ledger_demonstration", question, copy))
        letters = LETTERS[: self.letters]
        digits = {name: rng.choice(self.options(name)) for name in letters}
        kept = set(letters)
        if progress < self.short_until:
            others = [name for name in letters if name != letter]
            kept = {letter, *rng.sample(others, min(SHORT_LINES - 1, len(others)))}
        first = letters.index(letter)
        with_old = {letters[(first + offset) % self.letters] for offset in range(self.distractors)}
        ledger: list[str] = []
        for name in (name for name in letters if name in kept):
            if name in with_old:
                ledger.append(f"old {_line(name, rng.choice(self.options(name)))}")
            ledger.append(_line(name, digits[name]))
        answer = [*["wait"] * self.distance, f"#### {digits[letter]}"]
        return Prompt(
            uid=f"ledger/{question}/{copy}" if copy else f"ledger/{question}",
            question=question,
            gold=str(self.options(letter)[0]),
            demonstration="\n".join([*ledger * self.copies, *answer]),
        )


def asked_letter(prompt: Prompt) -> str:
    """The letter of a question."""
    return prompt.question.split()[-1]


def _line(letter: str, digit: int) -> str:
    # With a calculation, so that span finders see it.
    return f"{letter} {digit} + 0 = {digit}"
