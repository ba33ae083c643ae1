"""How a row becomes a question with its gold."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from string import ascii_uppercase
from typing import cast

from mirrorpo.core.batch import Prompt
from mirrorpo.dataset.choices import order, read_choices, shown
from mirrorpo.dataset.code import Style, imports, problem
from mirrorpo.dataset.columns import Template, absent, plain_text, value_at
from mirrorpo.dataset.gold import CHOICES, Extractor, extracted
from mirrorpo.dataset.jsonl import JsonRow


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPrompt:
    """The settings of `dataset.table.Table` that say what a row holds, with the same meanings."""

    question: str
    gold: str
    extractor: Extractor
    demonstration: str | None
    choices: str | Sequence[str] | None
    labels: str | None
    choice_line: str
    choice_seed: int | None
    tests: str | None

    def __post_init__(self) -> None:
        """Refuses settings that do not go together."""
        if (self.choices is not None) != (self.extractor in CHOICES):
            raise ValueError(
                f"dataset.extractor={self.extractor} with dataset.choices={self.choices}: choices go with "
                f"one of {', '.join(CHOICES)}, and these with choices"
            )
        if self.choices is not None and not isinstance(self.choices, str | list | tuple):
            raise ValueError(f"dataset.choices={self.choices!r}: give a column, or a list of columns")
        if (self.tests is not None) != (self.extractor == "tests"):
            raise ValueError(
                f"dataset.extractor={self.extractor} with dataset.tests={self.tests}: a column of tests goes "
                "with extractor=tests, whose gold is the reference program"
            )
        if not ("{letter}" in self.choice_line and "{choice}" in self.choice_line):
            raise ValueError(f"dataset.choice_line={self.choice_line!r} must hold {{letter}} and {{choice}}")

    def templates(self) -> list[Template]:
        """The settings that name columns."""
        named = {"question": self.question, "gold": self.gold, "labels": self.labels, "tests": self.tests}
        if isinstance(self.choices, str):
            named["choices"] = self.choices
        listed = [] if self.choices is None or isinstance(self.choices, str) else self.choices
        out = [Template(setting, text) for setting, text in named.items() if text is not None]
        out += [Template("choices", text) for text in listed]
        demonstration = Template("demonstration", self.demonstration or "{gold}").columns()
        return [*out, *(Template("demonstration", name) for name in demonstration if name != "gold")]

    def prompt(self, row: JsonRow, uid: str) -> Prompt:
        """The question of a row.

        Raises:
            ValueError: saying what is wrong with the row, and the fix.
        """
        question, text = self.stem(row), Template("gold", self.gold).of(row)
        if self.tests is not None:
            return self._program(uid, question, text, row)
        if self.choices is not None:
            question, gold = self._with_choices(row, question, text)
        else:
            with self._about_gold():
                gold = extracted(text, self.extractor)
        return Prompt(uid=uid, question=question, gold=gold, demonstration=self._worked(row, text, gold))

    def stem(self, row: JsonRow) -> str:
        """The question of a row without its choices."""
        return Template("question", self.question).of(row)

    def _with_choices(self, row: JsonRow, question: str, text: str) -> tuple[str, str]:
        choices = read_choices(row, self.choices or [], self.labels)
        with self._about_gold():
            right = choices.right(text, self.extractor)
        positions = order(choices, question, self.choice_seed)
        lines = shown(choices, positions, self.choice_line)
        return f"{question}\n{lines}", ascii_uppercase[positions.index(right)]

    @contextmanager
    def _about_gold(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            columns = ", ".join(map(repr, Template("gold", self.gold).columns()))
            raise ValueError(f"column {columns}: {error}") from error

    def _worked(self, row: JsonRow, text: str, gold: str) -> str:
        if self.demonstration is not None:
            return Template("demonstration", self.demonstration).of({**row, "gold": gold})
        if self.extractor in ("hashes", "box"):
            return text
        return gold if self.extractor == "text" else rf"\boxed{{{gold}}}"

    def _program(self, uid: str, question: str, reference: str, row: JsonRow) -> Prompt:
        value = value_at(row, self.tests or "")
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        tests = [plain_text(item) for item in items]
        if not tests or absent(value) or not all(test and test.strip() for test in tests):
            state = "not there" if absent(value) else repr(value)
            raise ValueError(f"column {self.tests!r} is {state}; write a list of tests, or one text of them")
        # `signature` names the function that the tests call.
        style = Style(question="{text}\n{signature}", system="", user="{question}", fenced=True)
        texts, prelude = cast("list[str]", tests), imports(reference)
        return problem(uid, question, reference, texts, visible=0, setup="", prelude=prelude, style=style)
