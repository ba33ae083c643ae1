"""HumanEval: 164 functions to be completed; for evaluation only, since it has no training split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.code_rows import Kind, Located, gzip_rows, numbered
from mirrorpo.dataset.hub import hub_files, hub_rows
from mirrorpo.dataset.jsonl import JsonRow, rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once
from mirrorpo.dataset.settings import check_user
from mirrorpo.text.python_source import parsed

FILE = "humaneval/HumanEval.jsonl.gz"
COLUMNS: dict[str, Kind] = {
    "prompt": "text",
    "entry_point": "text",
    "canonical_solution": "text",
    "test": "text",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HumanEval(ReadsOnce):
    """HumanEval from a folder or from the Hugging Face hub.

    Only `test` has problems; training on it is refused at compose. The question is the problem's code, up to
    where the function's body begins. A completion may write all of the function, or go on from there. Its
    tests are one function, so a program passes all of them or none; all are hidden, but docstrings show
    examples.

    Attributes:
        root: folder that holds humaneval/HumanEval.jsonl.gz; None or empty: use the hub.
        hub: dataset name on the hub, or a local copy of that repository.
        revision: commit or tag of it; None: the latest.
        system: system turn.
        user: user turn, with `{question}` where the question goes.

    References:
        Chen et al. 2021, https://arxiv.org/abs/2107.03374
    """

    evaluation_only: ClassVar[bool] = True

    root: str | None
    hub: str
    revision: str | None
    system: str
    user: str

    def __post_init__(self) -> None:
        check_user(self.user)

    @read_once
    def load(self, split: Split) -> list[Prompt]:
        """All problems for `test`, in the order of the file; none for the other splits.

        `uid` is humaneval/<number>.
        """
        if split != "test":
            return []
        return [_prompt(number, row) for number, (_, row) in numbered(self._rows(), COLUMNS).items()]

    def files(self, split: Split) -> list[Path]:
        """The file that `test` is read from, or those of a local copy of the hub's repository."""
        if split != "test":
            return []
        return [self._file] if self.root else hub_files(self.hub)

    def fingerprint(self, split: Split) -> str:
        """sha256 of the rows of a split, the same from a folder and from the hub."""
        return rows_hash(
            (p.uid, p.question, p.gold, *(p.checks.hidden if p.checks else ())) for p in self.load(split)
        )

    @property
    def _file(self) -> Path:
        return Path(self.root or "") / FILE

    def _rows(self) -> Sequence[Located]:
        if self.root:
            return gzip_rows(self._file, ("task_id", *COLUMNS))
        rows = hub_rows(self.hub, "openai_humaneval", "test", self.revision, FILE)
        return [(f"{self.hub}, test row {row_number}", row) for row_number, row in enumerate(rows, 1)]


def _prompt(number: int, row: JsonRow) -> Prompt:
    name, code, reference = row["entry_point"], row["prompt"], row["canonical_solution"]
    test = f"{row['test']}\n\ncheck({name})"
    fault = ""
    for part, source in (("prompt", code), ("test", test), ("reference", code + reference)):
        if parsed(source) is None:
            fault = fault or f"the {part} does not parse"
    # The prompt's own helpers are the tests' too: there, as the dataset wrote them and not as a program may
    # have changed them.
    checks = Checks(
        entry_point=name, prefix=code, setup="", prelude=code, visible=[], hidden=[test], fault=fault
    )
    return Prompt(
        uid=f"humaneval/{number:03d}",
        question=code,
        gold=reference,
        demonstration=reference,
        checks=checks,
    )
