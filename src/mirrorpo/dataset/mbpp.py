"""MBPP: basic Python problems of a sentence each, with a reference and three tests."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.code import Style, chosen, imports, problem
from mirrorpo.dataset.code_rows import Kind, Located, json_rows, numbered
from mirrorpo.dataset.hub import hub_files, hub_rows
from mirrorpo.dataset.jsonl import JsonRow, read_jsonl, rows_hash
from mirrorpo.dataset.read_once import ReadsOnce, read_once

# Ids 1 to 10 are for few-shot prompts.
IDS: Mapping[Split, range] = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
SHOTS = range(1, 11)
COLUMNS: Mapping[str, Kind] = {
    "code": "text",
    "test_list": "texts",
    "challenge_test_list": "optional texts",
    "test_setup_code": "optional text",
    "test_imports": "optional texts",
}
FILES = {"full": "mbpp.jsonl", "sanitized": "sanitized-mbpp.json"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mbpp(ReadsOnce):
    """MBPP from a folder or from the Hugging Face hub; splits by the problem's number, as the paper's.

    The first `visible_tests` tests of a problem are shown by the styles that show tests; the others are
    hidden, with `challenge` also those that the dataset calls challenging. A row whose tests cannot be used
    is loaded with its fault and left out of training and evaluation, by name.

    With `plus`, the test split is MBPP+: its problems with its tests, of which those whose number lies in
    another split are dropped and counted in the log.

    Attributes:
        rows: "full", all 974; "sanitized", the 427 that were verified by hand.
        root: folder that holds mbpp/mbpp.jsonl and mbpp/sanitized-mbpp.json; None or empty: use the hub.
        hub: dataset name on the hub, or a local copy of that repository.
        revision: commit or tag of it; None: the latest.
        plus: JSON Lines file of MBPP+ with the hub's fields (task_id, prompt, code, test_imports, test_list,
            test); None: plain MBPP.
        visible_tests: how many tests the prompt shows.
        challenge: whether the challenging tests count among the hidden ones.
        style: which of `styles` is used.
        styles: how a problem is put to the model, by name.

    References:
        Austin et al. 2021, https://arxiv.org/abs/2108.07732
        MBPP+: Liu et al. 2023, https://arxiv.org/abs/2305.01210
    """

    evaluation_only: ClassVar[bool] = False

    rows: Literal["full", "sanitized"]
    root: str | None
    hub: str
    revision: str | None
    plus: str | None
    visible_tests: int
    challenge: bool
    style: str
    styles: Mapping[str, Style]

    def __post_init__(self) -> None:
        if self.rows not in FILES:
            raise ValueError(f"dataset.rows={self.rows}: choose full or sanitized")
        named = chosen(self.styles, self.style, self.visible_tests)
        shots = named.worked_problems()
        if not set(shots) <= set(SHOTS) or len(set(shots)) < len(shots):
            raise ValueError(
                f"dataset.styles.{self.style}.shots={list(shots)}: give different numbers of 1 to 10; the "
                "other problems are for training and evaluation"
            )
        if shots and self.plus:
            raise ValueError(
                f"dataset.plus={self.plus} with dataset.style={self.style}: MBPP+ has no problems for worked "
                "examples; set dataset.plus=null, or another style"
            )

    @property
    def system(self) -> str:
        """The style's system turn."""
        return self.styles[self.style].system

    @property
    def user(self) -> str:
        """The style's user turn."""
        return self.styles[self.style].user

    @read_once
    def load(self, split: Split) -> list[Prompt]:
        """The problems of a split by number; `uid` is mbpp/<number>, or mbpp_plus/<number>."""
        if split not in IDS:
            raise ValueError(f"unknown split {split!r}; choose one of {list(IDS)}")
        if self.plus and split == "test":
            return self._plus(self.plus)
        prompts = self.numbered(IDS[split], split)
        if not prompts:
            raise ValueError(
                f"mbpp's {split} split is empty: no row has a task_id of {IDS[split]}; "
                "is that the whole file?"
            )
        return prompts

    def numbered(self, numbers: range, stored: Split) -> list[Prompt]:
        """The problems of some numbers in order, from a split of the hub or the one file of a folder."""
        rows = self._numbered(stored)
        examples = self._examples(rows)
        chosen_rows = [(number, rows[number][1]) for number in sorted(rows) if number in numbers]
        return [self._prompt(number, row, examples) for number, row in chosen_rows]

    def _examples(self, rows: Mapping[int, Located]) -> str:
        style = self.styles[self.style]
        shots = style.worked_problems()
        if shots and not self.root:
            rows = self._numbered("prompt")  # the hub's split of their own; a folder's one file has all rows
        missing = [number for number in shots if number not in rows]
        if missing:
            raise ValueError(
                f"dataset.styles.{self.style}.shots={list(shots)}: there is no task_id {missing[0]} with "
                f"dataset.rows={self.rows}; choose of {sorted(set(rows) & set(SHOTS))}"
            )
        worked = [rows[number][1] for number in shots]
        asked = [style.asks(_text(row), row["test_list"][: self.visible_tests], "") for row in worked]
        return "".join(
            style.works(question, row["code"]) for question, row in zip(asked, worked, strict=True)
        )

    def files(self, split: Split) -> list[Path]:
        """The file that a split is read from, or those of a local copy of the hub's repository."""
        if self.plus and split == "test":
            return [Path(self.plus)]
        return [self._file] if self.root else hub_files(self.hub)

    def fingerprint(self, split: Split) -> str:
        """sha256 of a split's rows as they are used, the same from a folder and from the hub."""
        return rows_hash(
            (
                p.uid,
                p.question,
                p.gold,
                *(p.checks.visible if p.checks else ()),
                *(p.checks.hidden if p.checks else ()),
            )
            for p in self.load(split)
        )

    @property
    def _file(self) -> Path:
        return Path(self.root or "") / "mbpp" / FILES[self.rows]

    def _numbered(self, stored: Split | Literal["prompt"]) -> dict[int, Located]:
        text = "text" if self.rows == "full" else "prompt"
        return numbered(self._rows(stored, text), {text: "text", **COLUMNS})

    def _rows(self, stored: str, text: str) -> Sequence[Located]:
        if not self.root:
            files = "mbpp/mbpp.jsonl and mbpp/sanitized-mbpp.json"
            rows = hub_rows(self.hub, self.rows, stored, self.revision, files)
            return [(f"{self.hub}, {stored} row {row_number}", row) for row_number, row in enumerate(rows, 1)]
        keys = ("task_id", text, "code", "test_list")
        return _located(self._file, keys) if self.rows == "full" else json_rows(self._file, keys)

    def _prompt(self, number: int, row: JsonRow, examples: str) -> Prompt:
        tests = [*row["test_list"], *(row.get("challenge_test_list") or () if self.challenge else ())]
        prompt = problem(
            f"mbpp/{number:03d}",
            _text(row),
            row["code"],
            tests,
            visible=self.visible_tests,
            setup=row.get("test_setup_code") or "",
            prelude="\n".join([imports(row["code"]), *(row.get("test_imports") or ())]),
            style=self.styles[self.style],
        )
        return replace(prompt, question=examples + prompt.question)

    def _plus(self, path: str) -> list[Prompt]:
        keys = ("task_id", "prompt", "code", "test_list", "test")
        rows = numbered(_located(Path(path), keys), {"prompt": "text", "test": "text", **COLUMNS})
        numbers = [number for number in sorted(rows) if number in IDS["test"]]
        if len(numbers) < len(rows):
            log.warning(
                "%s: %d of %d problems are of another split of MBPP and were dropped",
                path,
                len(rows) - len(numbers),
                len(rows),
            )
        prompts = []
        for number in numbers:
            row = rows[number][1]
            visible = list(row["test_list"])[: self.visible_tests]
            prelude = "\n".join([imports(row["code"]), *(row.get("test_imports") or ())])
            prompts.append(
                problem(
                    f"mbpp_plus/{number:03d}",
                    row["prompt"],
                    row["code"],
                    [*visible, row["test"]],
                    visible=len(visible),
                    setup="",
                    prelude=prelude,
                    style=self.styles[self.style],
                )
            )
        return prompts


def _located(path: Path, keys: Sequence[str]) -> list[Located]:
    return [(f"{path}, line {number}", row) for number, row in enumerate(read_jsonl(path, keys), 1)]


def _text(row: JsonRow) -> str:
    return row["text"] if "text" in row else row["prompt"]
