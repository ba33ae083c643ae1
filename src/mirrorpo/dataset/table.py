"""Questions of one's own from a file, a folder or the hub, by settings alone."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mirrorpo.core.batch import Example, Prompt
from mirrorpo.core.protocols import Assembly, Split
from mirrorpo.dataset.columns import check_columns
from mirrorpo.dataset.examples import Shots, inline_examples
from mirrorpo.dataset.gold import Extractor
from mirrorpo.dataset.jsonl import rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.row_prompt import RowPrompt
from mirrorpo.dataset.settings import check_user, check_validation_fraction
from mirrorpo.dataset.sources import NAMES, Hub, Source, Stored, local_source
from mirrorpo.dataset.split import bucket
from mirrorpo.dataset.stored_rows import StoredRows, listed, read_file

MATH = "mirrorpo.reward.math.math_answer.MathAnswer"

log = logging.getLogger(__name__)


# No slots: examples are read once.
@dataclass(frozen=True, kw_only=True)
class Table(ReadsOnce):
    r"""Questions and golds from the columns of rows, wherever these are stored.

    Settings of a row are columns or templates (`columns.Template`). Splits that are not stored are held out
    of training by a hash of the question, so that no reordering moves one.

    Attributes:
        name: what each `uid` begins with; None: the last part of the source's name.
        root: folder below which `source` lies, unless it is a full path; None or empty: the working folder.
        source: a file (.jsonl, .json, .csv, .tsv, .parquet, also .gz), a folder of such files named after
            splits, or a folder that `save_to_disk` wrote.
        hub: in place of `source` a dataset of the hub, or a local copy of its repository.
        hub_config: which configuration of it; None: its only one.
        revision: commit or tag of it; None: the latest.
        splits: what train, validation and test are called where they are stored, or their files; without
            train the set is for evaluation only. Empty: by their names; of a file all are for training.
        validation_fraction: share of the training rows held out where no validation split is stored.
        test_fraction: the same of test.
        bad_rows: "refuse": an error lists them; "leave_out": a note names them, and the others are used.
        question: the question.
        gold: the text that holds the gold.
        extractor: how the gold is read from it (`gold.extracted`); of choices, how it names the right one.
        demonstration: the worked answer, in which `{gold}` is the gold; None: with hashes and box the text
            that holds the gold, with text the gold, otherwise the gold in a box.
        choices: column of the choices, or a list with a column or template for each (`choices.read_choices`).
        labels: column of the labels by which golds name choices; None: those of `choices`, or A, B, ...
        choice_line: how a choice is shown, with `{letter}` and `{choice}`.
        choice_seed: of the order of choices; None: as they are stored.
        tests: column of a program's tests; `gold` is then a program that is right.
        shots: examples that stand before every question: a list of question and answer, or a file of rows,
            which is found as `source` is. No question is its own example.
        shot_count: how many of the file's rows, from the first on; None: all.
        system: system turn.
        user: user turn, with `{question}` where the question goes.
    """

    name: str | None
    root: str | None
    source: str | None
    hub: str | None
    hub_config: str | None
    revision: str | None
    splits: Mapping[Split, str | None]
    validation_fraction: float
    test_fraction: float
    bad_rows: Literal["refuse", "leave_out"]
    question: str
    gold: str
    extractor: Extractor
    demonstration: str | None
    choices: str | Sequence[str] | None
    labels: str | None
    choice_line: str
    choice_seed: int | None
    tests: str | None
    shots: Shots
    shot_count: int | None
    system: str
    user: str

    def __post_init__(self) -> None:
        """Refuses settings that could only fail later, or quietly."""
        if unknown := sorted(set(self.splits) - set(NAMES)):
            raise ValueError(f"dataset.splits: {unknown[0]} is no split; name train, validation or test")
        stored = list(self._named.values())
        if len(set(stored)) < len(stored):
            raise ValueError(f"dataset.splits={dict(self.splits)}: two splits are the same rows")
        check_validation_fraction(self.validation_fraction)
        if not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise ValueError(
                f"dataset.test_fraction={self.test_fraction} and dataset.validation_fraction="
                f"{self.validation_fraction} leave no rows for training; e.g. 0.1 and 0.1"
            )
        if self.source and self.hub:
            raise ValueError(
                f"dataset.source={self.source} and dataset.hub={self.hub}: where are the rows? Set "
                "one of them to null"
            )
        check_user(self.user)
        if self.shots is not None and not isinstance(self.shots, str):
            inline_examples(self.shots)
        # Refuses in its turn.
        _ = self._row_prompt

    @property
    def evaluation_only(self) -> bool:
        """Whether no rows are for training."""
        if self._named:
            return "train" not in self._named
        try:
            return "train" not in self._source.splits()
        except ValueError:
            # `load` says so.
            return False

    @cached_property
    def examples(self) -> Sequence[Example]:
        """What stands before every question.

        Raises:
            ValueError: if a row of the file can be no example, or there are fewer than wanted.
        """
        if not isinstance(self.shots, str):
            return inline_examples(self.shots or [])
        stored = read_file(self._below(self.shots))
        questions, faults = self._questions(stored, "shots")
        if faults:
            raise ValueError(f"dataset.shots={self.shots}: {listed(stored.source, faults)}")
        wanted = len(questions) if self.shot_count is None else self.shot_count
        if not 0 < wanted <= len(questions):
            raise ValueError(
                f"dataset.shot_count={self.shot_count}: {stored.source} has {len(questions)} rows; give 1 to "
                f"{len(questions)}, or dataset.shots=null"
            )
        return [Example(question=p.question, answer=p.demonstration) for _, p in questions[:wanted]]

    @read_once
    def load(self, split: Split) -> list[Prompt]:
        """The questions of a split, in the order of the rows; none where it is not stored and has no share.

        `uid` is <name>/<stored split>/<row, from 0>, so it does not depend on shares.
        """
        stored = self._stored(split)
        if stored is None:
            return []
        rows = self._source.rows(stored)
        questions, faults = self._questions(rows, stored)
        if faults and self.bad_rows == "refuse":
            raise ValueError(
                f"{listed(rows.source, faults)}. Mend them, or go on without them by "
                "dataset.bad_rows=leave_out"
            )
        examples = {example.question for example in self.examples}
        share = self._share(split)
        prompts = [p for stem, p in questions if bucket(stem) in share and p.question not in examples]
        if not prompts:
            raise ValueError(
                f"dataset: the {split} split is empty, of {len(rows.rows)} rows in {rows.source} with "
                f"dataset.validation_fraction={self.validation_fraction} and dataset.test_fraction="
                f"{self.test_fraction}; change these, or add rows"
            )
        return prompts

    def left_out(self, split: Split) -> Mapping[str, str]:
        """The bad rows of what a split is read from, by the uid that each would have, with the reason."""
        stored = self._stored(split)
        if stored is None or self.bad_rows == "refuse":
            return {}
        rows = self._source.rows(stored)
        _, faults = self._questions(rows, stored)
        uids = {row.location: self._uid(stored, index) for index, row in enumerate(rows.rows)}
        return {uids[location]: f"{location}: {fault}" for location, fault in faults.items()}

    def files(self, split: Split) -> list[Path]:
        """The files that a split and its examples are read from; none of the hub."""
        stored = self._stored(split)
        shots = [self._below(self.shots)] if isinstance(self.shots, str) else []
        return [] if stored is None else [*self._source.files(stored), *shots]

    def fingerprint(self, split: Split) -> str:
        """sha256 of what a split's questions hold, the same from each kind of source."""
        return rows_hash(
            (p.uid, p.question, p.gold, p.demonstration, *(p.checks.hidden if p.checks else ()))
            for p in self.load(split)
        )

    def notes(self, group: str, assembly: Assembly) -> Iterator[str]:
        """That letters have a reward of their own."""
        if self.choices is not None and assembly.config["reward"].get("_target_") == MATH:
            yield f"{group}.choices with reward=math_answer: reward=choice_letter reads letters better"

    @property
    def _named(self) -> Stored:
        return {split: name for split, name in self.splits.items() if name}

    @property
    def _source(self) -> Source:
        if self.hub:
            return Hub(self.hub, self.hub_config, self.revision)
        if not self.source:
            raise ValueError("dataset.source=null: name a file or folder, or a set of the hub in dataset.hub")
        return local_source(self.source, self.root)

    def _stored(self, split: Split) -> str | None:
        if split not in NAMES:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(NAMES)}")
        stored = self._named or self._source.splits()
        if self.test_fraction and "test" in stored:
            raise ValueError(
                f"dataset.test_fraction={self.test_fraction}: a test split is stored ({stored['test']}); set "
                "it to 0, or leave that split out of dataset.splits"
            )
        if split in stored:
            return stored[split]
        if split == "train":
            return None
        if "train" not in stored or (split == "test" and not self.test_fraction):
            there = ", ".join(stored)
            raise ValueError(
                f"eval_split={split}: only {there} is stored; use another, name it in dataset.splits, or "
                "hold a share of train out by dataset.validation_fraction and dataset.test_fraction, e.g. 0.1"
            )
        return stored["train"]

    def _share(self, split: Split) -> "Share":
        stored = self._named or self._source.splits()
        if split != "train" and split in stored:
            return Share(0.0, 1.0)
        validation = 0.0 if "validation" in stored else self.validation_fraction
        bounds = (0.0, validation, 1 - self.test_fraction, 1.0)
        start = {"validation": 0, "train": 1, "test": 2}[split]
        return Share(bounds[start], bounds[start + 1])

    @property
    def _row_prompt(self) -> RowPrompt:
        return RowPrompt(
            question=self.question,
            gold=self.gold,
            extractor=self.extractor,
            demonstration=self.demonstration,
            choices=self.choices,
            labels=self.labels,
            choice_line=self.choice_line,
            choice_seed=self.choice_seed,
            tests=self.tests,
        )

    def _questions(self, stored: StoredRows, split: str) -> tuple[list[tuple[str, Prompt]], dict[str, str]]:
        # With each question its text without choices, whose hash decides its split whatever their order.
        row_prompt = self._row_prompt
        if stored.columns:
            check_columns(row_prompt.templates(), stored.columns, stored.source)
        questions: list[tuple[str, Prompt]] = []
        faults: dict[str, str] = {}
        for index, row in enumerate(stored.rows):
            if row.fault:
                faults[row.location] = row.fault
                continue
            try:
                prompt = row_prompt.prompt(row.values, self._uid(split, index))
                questions.append((row_prompt.stem(row.values), prompt))
            except ValueError as error:
                faults[row.location] = str(error)
        return questions, faults

    def _uid(self, stored: str, index: int) -> str:
        source = Path(self.hub or self.source or "").name
        return f"{self.name or source.partition('.')[0]}/{Path(stored).stem}/{index:05d}"

    def _below(self, path: str) -> Path:
        return Path(self.root or "") / Path(path).expanduser()


@dataclass(frozen=True, slots=True)
class Share:
    """A stretch of [0, 1), into which hashes of questions fall."""

    start: float
    end: float

    def __contains__(self, number: float) -> bool:
        return self.start <= number < self.end
