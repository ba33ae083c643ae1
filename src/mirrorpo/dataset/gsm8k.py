"""GSM8K: grade-school maths word problems whose answer is one number."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.hub import hub_files, hub_rows
from mirrorpo.dataset.jsonl import read_jsonl, rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.settings import check_user, check_validation_fraction
from mirrorpo.dataset.split import held_out

STORED = {"train": "train", "validation": "train", "test": "test"}
NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(,[0-9]{3})+)(\.[0-9]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gsm8k(ReadsOnce):
    """GSM8K from a folder or from the Hugging Face hub, with validation held out of its train split.

    A train question belongs to validation by the hash of its text (`split.held_out`), so reordering
    or extending the file moves no question, and copies of a question share a side. (The published
    files have no copies, and no test question is in train.)

    From a folder, `test` reads only the test file and the other splits only the train file. From the
    hub, `datasets` fills its cache with every split, and only the requested one is read.

    Attributes:
        root: folder that holds gsm8k/train.jsonl and gsm8k/test.jsonl; None or empty: use the hub.
        hub: dataset name on the hub, or a local copy of that repository.
        hub_config: which configuration of it ("main").
        revision: commit or tag of it; None: the latest.
        validation_fraction: expected share of train held out, in [0, 1).
        system: system turn.
        user: user turn, with `{question}` where the question goes.

    References:
        Cobbe et al. 2021, https://arxiv.org/abs/2110.14168
    """

    evaluation_only: ClassVar[bool] = False

    root: str | None
    hub: str
    hub_config: str
    revision: str | None
    validation_fraction: float
    system: str
    user: str

    def __post_init__(self) -> None:
        """Refuses settings that could only fail later, or quietly."""
        check_validation_fraction(self.validation_fraction)
        check_user(self.user)

    @read_once
    def load(self, split: Split) -> list[Prompt]:
        """The questions of a split, in the order of the file.

        `uid` is gsm8k/<train or test>/<row, from 0>, so it does not depend on `validation_fraction`.
        """
        if split not in STORED:
            raise ValueError(f"unknown split {split!r}; choose one of {list(STORED)}")
        stored = STORED[split]
        rows = self._rows(stored)
        prompts = [
            _prompt(row, f"gsm8k/{stored}/{index:05d}", location)
            for index, (location, row) in enumerate(rows)
        ]
        if stored == "train":
            validation = split == "validation"
            prompts = [p for p in prompts if held_out(p.question, self.validation_fraction) == validation]
        if not prompts:
            raise ValueError(
                f"gsm8k's {split} split is empty: {stored} has {len(rows)} rows and "
                f"dataset.validation_fraction={self.validation_fraction}; "
                "change the fraction, or MIRRORPO_DATA if that is the wrong file"
            )
        return prompts

    def files(self, split: Split) -> list[Path]:
        """The file that a split is read from, or those of a local copy of the hub's repository."""
        return [self._file(STORED[split])] if self.root else hub_files(self.hub)

    def fingerprint(self, split: Split) -> str:
        """sha256 of the (uid, question, answer) rows of a split, the same from a folder and from the hub."""
        return rows_hash((p.uid, p.question, p.demonstration) for p in self.load(split))

    def _file(self, stored: str) -> Path:
        return Path(self.root or "") / "gsm8k" / f"{stored}.jsonl"

    def _rows(self, stored: str) -> list[tuple[str, dict[str, object]]]:
        """Each row of a stored split, behind what an error about it should name."""
        if self.root:
            path = self._file(stored)
            return [
                (f"{path}, line {n}", row)
                for n, row in enumerate(read_jsonl(path, ("question", "answer")), 1)
            ]
        rows = hub_rows(
            self.hub, self.hub_config, stored, self.revision, "gsm8k/train.jsonl and gsm8k/test.jsonl"
        )
        return [(f"{self.hub}, {stored} row {n}", row) for n, row in enumerate(rows, 1)]


def final_number(answer: str) -> str:
    r"""The gold number of a GSM8K answer: what follows the last `####`, written as it is there.

    >>> final_number("He has 10 * 100 = <<10*100=1000>>1000 apples.\n#### 1,000")
    '1,000'

    Raises:
        ValueError: if there is no `####`, or no plain number follows the last one.
    """
    _, mark, number = answer.rpartition("####")
    number = number.strip()
    if not mark or not NUMBER.fullmatch(number):
        raise ValueError(f"the answer ends in {answer[-40:]!r}; end it in a line like '#### 1,000'")
    return number


def _prompt(row: Mapping[str, object], uid: str, location: str) -> Prompt:
    question, answer = _text(row, "question", location), _text(row, "answer", location)
    try:
        gold = final_number(answer)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
    return Prompt(uid=uid, question=question, gold=gold, demonstration=answer)


def _text(row: Mapping[str, object], key: str, location: str) -> str:
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"{location}: the {key} is {text!r}; write a text that is not empty, or delete the row"
        )
    return text
