"""Sums and differences in a row, from reasoning-gym's `chain_sum`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.core.seeds import derive
from mirrorpo.dataset.generated import filled
from mirrorpo.dataset.jsonl import rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.settings import check_user


class Questions(Protocol):
    """The library's questions by index, without an end."""

    def __getitem__(self, index: int) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainSum(ReadsOnce):
    """reasoning-gym's chain_sum: expressions of numbers, + and -.

    Splits are disjoint by a hash of the question. The gold is the value as the library gives it. There is no
    worked answer: a demonstration is the value after `####`.

    Attributes:
        data_seed: seed of the questions; independent of the run's seed, so that all runs are evaluated on the
            same ones.
        train_size: how many training questions there are.
        validation_size: how many validation questions.
        test_size: how many test questions.
        validation_fraction: expected share of all questions held out for validation; easy settings have few
            questions, and a tenth would be too few.
        test_fraction: expected share of all questions held out for the test; the rest, which is not nothing,
            is for training.
        min_terms: fewest numbers in an expression, >= 1.
        max_terms: most numbers.
        min_digits: fewest digits of its numbers, >= 1; all numbers of an expression have as many.
        max_digits: most digits.
        allow_negation: numbers may be negative, and then also shorter than their digits.
        system: system turn of the prompt.
        user: user turn; `{question}` stands for the question.

    Raises:
        ValueError: on a setting out of range; when loaded, if reasoning-gym is not there, with the command
            that installs it, or if there are not that many questions.

    References:
        Stojanovski et al. 2025, https://arxiv.org/abs/2505.24760
    """

    evaluation_only: ClassVar[bool] = False

    data_seed: int
    train_size: int
    validation_size: int
    test_size: int
    validation_fraction: float
    test_fraction: float
    min_terms: int
    max_terms: int
    min_digits: int
    max_digits: int
    allow_negation: bool
    system: str
    user: str

    def __post_init__(self) -> None:
        for quantity, least, most in (
            ("terms", self.min_terms, self.max_terms),
            ("digits", self.min_digits, self.max_digits),
        ):
            if not 1 <= least <= most:
                raise ValueError(
                    f"dataset.min_{quantity}={least} and max_{quantity}={most}: "
                    f"need 1 <= min_{quantity} <= max_{quantity}"
                )
        for split, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"dataset.{split}_size={size}: a split has at least one question")
        if (
            min(self.validation_fraction, self.test_fraction) <= 0
            or self.validation_fraction + self.test_fraction >= 1
        ):
            raise ValueError(
                f"dataset.validation_fraction={self.validation_fraction} and "
                f"dataset.test_fraction={self.test_fraction}: need both above 0, together below 1"
            )
        check_user(self.user)

    @property
    def _sizes(self) -> Mapping[Split, int]:
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    @read_once
    def load(self, split: Split) -> Sequence[Prompt]:
        """The questions of a split, in a fixed order; no question stands in two splits or twice in one."""
        questions = self._questions(derive(self.data_seed, "data", "chain_sum", split))
        positions = count()

        def draw() -> tuple[str, Callable[[float], Prompt]]:
            row = questions[next(positions)]
            return row["question"], partial(_prompt, row["question"], row["answer"])

        few = (
            "questions of such terms and digits; ask for fewer, or raise dataset.max_terms "
            "or dataset.max_digits"
        )
        test_end, validation_end = self.test_fraction, self.test_fraction + self.validation_fraction
        bounds: Mapping[Split, tuple[float, float]] = {
            "test": (0.0, test_end),
            "validation": (test_end, validation_end),
            "train": (validation_end, 1.0),
        }
        return filled(split, self._sizes[split], draw, few, bounds)

    def files(self, split: Split) -> Sequence[Path]:
        """None: the questions are made."""
        return []

    def fingerprint(self, split: Split) -> str:
        """Hash of the questions and answers of a split."""
        return rows_hash((prompt.uid, prompt.question, prompt.gold) for prompt in self.load(split))

    def _questions(self, seed: int) -> Questions:
        # The library imports all of its datasets, two seconds that other runs need not spend.
        try:
            library = import_module("reasoning_gym")
        except ImportError as error:
            raise ValueError(
                f"dataset=chain_sum: reasoning-gym cannot be imported ({error}); "
                "pip install reasoning-gym==0.1.25"
            ) from error
        # `size` bounds only the library's own iteration; a question is made from seed + index.
        return library.create_dataset(
            "chain_sum",
            seed=seed,
            size=1,
            min_terms=self.min_terms,
            max_terms=self.max_terms,
            min_digits=self.min_digits,
            max_digits=self.max_digits,
            allow_negation=self.allow_negation,
        )


def _prompt(question: str, gold: str, progress: float) -> Prompt:
    uid = "chain_sum/" + hashlib.sha256(question.encode()).hexdigest()[:12]
    return Prompt(uid=uid, question=question, gold=gold, demonstration=f"#### {gold}")
