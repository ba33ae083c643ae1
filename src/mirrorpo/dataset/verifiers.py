"""Single-turn tasks of the `verifiers` package as questions; `reward.verifiers` scores answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirrorpo.config.values import Config
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.jsonl import rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.settings import check_user, check_validation_fraction
from mirrorpo.dataset.split import bucket
from mirrorpo.text.verifiers_tasks import Task, TaskSource, question


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiersTasks(ReadsOnce):
    """The tasks of a taskset that is installed beside the `verifiers` package, 0.4.

    A task's own system prompt stands before its question, in the user turn. Validation is held out of
    training by a hash of the question, and so is the test where `test` is null.

    Attributes:
        taskset: the package's name, or OWNER/NAME of the hub.
        settings: of the taskset's own config.
        train: further ones for training and validation.
        test: further ones for the test, or None.
        limit: tasks that are read of each, or None.
        gold: field of a task's data that is shown as the right answer, or None; its rewards decide.
        validation_fraction: share of the tasks of training.
        test_fraction: the same, where `test` is None.
        system: system turn of every prompt.
        user: user turn; `{question}` stands for the question.

    Raises:
        ValueError: on a setting out of range; when loaded, if the package or the taskset is missing, or its
            tasks are not single-turn.
    """

    taskset: str | None
    settings: Config
    train: Config
    test: Config | None
    limit: int | None
    gold: str | None
    validation_fraction: float
    test_fraction: float
    system: str
    user: str

    def __post_init__(self) -> None:
        check_user(self.user)
        check_validation_fraction(self.validation_fraction)
        if not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise ValueError(
                f"dataset.test_fraction={self.test_fraction} leaves nothing beside "
                f"dataset.validation_fraction={self.validation_fraction}; together they lie below 1"
            )

    @read_once
    def load(self, split: Split) -> Sequence[Prompt]:
        """The tasks of a split, in their order."""
        source = TaskSource(
            taskset=self.taskset,
            settings=self.settings,
            train=self.train,
            test=self.test,
            limit=self.limit,
        )
        if split == "test" and self.test is not None:
            return [self._prompt(uid, task) for uid, task in source.tasks("test").items()]
        prompts = [self._prompt(uid, task) for uid, task in source.tasks("train").items()]
        return [prompt for prompt in prompts if self._split(prompt.question) == split]

    def files(self, split: Split) -> Sequence[Path]:
        """None that the package tells of."""
        return []

    def fingerprint(self, split: Split) -> str:
        """Hash of the questions and answers of a split."""
        return rows_hash((prompt.uid, prompt.question, prompt.gold) for prompt in self.load(split))

    def _split(self, text: str) -> Split:
        place, of_test = bucket(text), self.test_fraction if self.test is None else 0.0
        if place < of_test:
            return "test"
        return "validation" if place < of_test + self.validation_fraction else "train"

    def _prompt(self, uid: str, task: Task) -> Prompt:
        fields = task.data.model_dump()
        if self.gold is not None and self.gold not in fields:
            raise ValueError(
                f"dataset.gold={self.gold}: a task's data has {', '.join(sorted(fields))}; name one, or null"
            )
        gold = "" if self.gold is None else str(fields[self.gold])
        return Prompt(uid=uid, question=question(task), gold=gold, demonstration=gold)
