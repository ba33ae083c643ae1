"""Mathematical problems whose answers are LaTeX, from JSON Lines or from the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.hub import hub_files, hub_rows
from mirrorpo.dataset.jsonl import JsonRow, read_jsonl, rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.settings import check_user, check_validation_fraction
from mirrorpo.dataset.split import held_out
from mirrorpo.text.answer_marker import marked_answer


@dataclass(frozen=True, kw_only=True, slots=True)
class MathRows(ReadsOnce):
    r"""Problems with answers in two columns, from a folder of JSON Lines files or from the hub.

    Validation is held out of the training rows by a hash of the question (`split.held_out`). Where no rows
    are for training, the set is for evaluation only.

    Attributes:
        name: of the set: its folder below `root`, and what each `uid` begins with.
        root: folder that holds <name>/<stored split>.jsonl; None or empty: use the hub.
        hub: dataset name on the hub, or a local copy of that repository; None: there is none.
        hub_config: which configuration of it.
        revision: commit or tag of it; None: the latest.
        stored: what the splits "train" and "test" are called where they are stored.
        problem: column of the question.
        answer: column of the answer.
        answer_in: "column": it is the answer; "box": the answer is its last closed `\boxed{}`.
        validation_fraction: expected share of the training rows held out, in [0, 1).
        system: system turn.
        user: user turn, with `{question}` where the question goes.
    """

    name: str
    root: str | None
    hub: str | None
    hub_config: str
    revision: str | None
    stored: Mapping[str, str]
    problem: str
    answer: str
    answer_in: Literal["column", "box"]
    validation_fraction: float
    system: str
    user: str

    def __post_init__(self) -> None:
        if not self.stored or not set(self.stored) <= {"train", "test"}:
            raise ValueError(
                f"dataset.stored={dict(self.stored)}: say where train, test or both are stored, as in "
                "{train: train, test: test}"
            )
        check_validation_fraction(self.validation_fraction)
        if self.answer_in not in ("column", "box"):
            raise ValueError(f"dataset.answer_in={self.answer_in!r} is unknown; use column or box")
        check_user(self.user)

    @property
    def evaluation_only(self) -> bool:
        """Whether no rows are for training."""
        return "train" not in self.stored

    @read_once
    def load(self, split: Split) -> list[Prompt]:
        """The problems of a split, in the order of the file; none of one that is not stored.

        `uid` is <name>/<stored split>/<row, from 0>, so it does not depend on `validation_fraction`.
        """
        stored = self._stored(split)
        if stored is None:
            return []
        prompts = [
            self._prompt(row, f"{self.name}/{stored}/{index:05d}", location)
            for index, (location, row) in enumerate(self._rows(stored))
        ]
        if split != "test":
            wanted = split == "validation"
            prompts = [p for p in prompts if held_out(p.question, self.validation_fraction) == wanted]
        if not prompts:
            raise ValueError(
                f"{self.name}'s {split} split is empty: change dataset.validation_fraction="
                f"{self.validation_fraction}, or add rows"
            )
        return prompts

    def files(self, split: Split) -> list[Path]:
        """The file that a split is read from, or those of a local copy of the hub's repository."""
        stored = self._stored(split)
        if stored is None:
            return []
        return [self._file(stored)] if self.root else hub_files(self.hub or "")

    def fingerprint(self, split: Split) -> str:
        """sha256 of the (uid, question, gold) rows of a split, the same from a folder and from the hub."""
        return rows_hash((p.uid, p.question, p.gold) for p in self.load(split))

    def _stored(self, split: Split) -> str | None:
        return self.stored.get("test" if split == "test" else "train")

    def _file(self, stored: str) -> Path:
        return Path(self.root or "") / self.name / f"{stored}.jsonl"

    def _rows(self, stored: str) -> list[tuple[str, JsonRow]]:
        """Each row of a stored split, behind what an error about it should name."""
        path = self._file(stored)
        if self.root:
            rows = read_jsonl(path, (self.problem, self.answer))
            return [(f"{path}, line {n}", row) for n, row in enumerate(rows, 1)]
        if not self.hub:
            raise ValueError(
                f"no folder for {path}: set MIRRORPO_DATA to the folder that holds it, or dataset.hub"
            )
        rows = hub_rows(self.hub, self.hub_config, stored, self.revision, f"{path}")
        return [(f"{self.hub}, {stored} row {n}", row) for n, row in enumerate(rows, 1)]

    def _prompt(self, row: JsonRow, uid: str, location: str) -> Prompt:
        answer = _text(row, self.answer, location)
        return Prompt(
            uid=uid,
            question=_text(row, self.problem, location),
            gold=answer if self.answer_in == "column" else _boxed(answer, self.answer, location),
            demonstration=answer if self.answer_in == "box" else "",
        )


def _text(row: JsonRow, column: str, location: str) -> str:
    value = row.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{location}: column {column!r} is {value!r}; write a text or a number, or delete the row "
            f"(the row has {sorted(row)})"
        )
    return value


def _boxed(text: str, column: str, location: str) -> str:
    box = marked_answer(text, "read")
    if box is None or box.mark != "box":
        raise ValueError(
            f"{location}: column {column!r} has no closed \\boxed{{}}; with dataset.answer_in=column the "
            "column is the answer"
        )
    return text[box.opens : box.closes]
