"""The table: a line a fact, with its bound, and what the bound says of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, Unpack

Verdict = Literal["pass", "FAIL", "below", "skipped", "-", ""]

HEADER = f"{'section':9} {'what':47} {'value':>11} {'unit':10} {'bound':>11}  {'':8} note"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One fact.

    Attributes:
        section: that found it.
        name: what it is of.
        value: None where nothing was measured.
        unit: of the value.
        most: the value may not be above it.
        least: the value may not be below it.
        speed: a bound on speed or memory, which fails nothing unless the command is strict; else one on being
            right.
        note: what else there is to say; "skipped: ..." and "error: ..." begin with these words.
        details: what stands below the line.
    """

    section: str
    name: str
    value: float | None = None
    unit: str = ""
    most: float | None = None
    least: float | None = None
    speed: bool = False
    note: str = ""
    details: Sequence[str] = ()

    @property
    def bounded(self) -> bool:
        """Whether there is something to hold the value against."""
        return self.most is not None or self.least is not None

    @property
    def within(self) -> bool:
        """Whether the value keeps its bounds; one that is no number keeps none."""
        if self.value is None:
            return False
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)


class SpeedBound(TypedDict, total=False):
    """What a line of speed may have beside its value."""

    most: float | None
    least: float | None
    note: str
    details: Sequence[str]


@dataclass(kw_only=True, slots=True)
class Table:
    """Lines, printed as they come.

    Attributes:
        speeds_count: whether bounds on speed are judged: on a CPU they mean nothing.
        strict: whether a missed bound on speed fails the command.
        lines: so far.
    """

    speeds_count: bool
    strict: bool = False
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """Print a line and keep it."""
        self.lines.append(line)
        print(self._text(line), flush=True)

    def fact(self, section: str, name: str, value: float, unit: str, note: str = "") -> None:
        """A line without a bound."""
        self.add(Line(section=section, name=name, value=value, unit=unit, note=note))

    def right(
        self, section: str, name: str, value: float | None, unit: str, most: float, note: str = ""
    ) -> None:
        """A line that says whether something is right: a distance, and the most that it may be."""
        self.add(Line(section=section, name=name, value=value, unit=unit, most=most, note=note))

    def speed(self, section: str, name: str, value: float, unit: str, **more: Unpack[SpeedBound]) -> None:
        """A line with a bound on speed or memory."""
        self.add(Line(section=section, name=name, value=value, unit=unit, speed=True, **more))

    def skip(self, section: str, name: str, reason: str) -> None:
        """A line of something that cannot be done here."""
        self.add(Line(section=section, name=name, note=f"skipped: {reason}"))

    def error(self, section: str, error: BaseException) -> None:
        """The line of a section that broke off, which fails the command."""
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        self.add(Line(section=section, name="ended by an error", note=f"error: {reason}"))

    def verdict(self, line: Line) -> Verdict:
        """What the bound says: "below" is a speed that misses its own, "-" one that is not judged."""
        if line.note.startswith("skipped:"):
            return "skipped"
        if line.note.startswith("error:"):
            return "FAIL"
        if not line.bounded:
            return ""
        if line.speed and not self.speeds_count:
            return "-"
        if line.within:
            return "pass"
        return "below" if line.speed else "FAIL"

    @property
    def failed(self) -> list[Line]:
        """Lines for which the command has to fail."""
        failing = ("FAIL", "below") if self.strict else ("FAIL",)
        return [line for line in self.lines if self.verdict(line) in failing]

    def close(self) -> None:
        """Print how many lines kept their bound."""
        verdicts = [self.verdict(line) for line in self.lines]
        counted = {word: verdicts.count(word) for word in ("pass", "FAIL", "below", "skipped")}
        print("\n" + ", ".join(f"{count} {word}" for word, count in counted.items()))
        if not self.speeds_count:
            print("on a CPU: what is right is checked, at cut sizes; seconds, rates and shares mean nothing")

    def write(self, path: Path, about: Mapping[str, object]) -> None:
        """Write what was printed as JSON, with what it is about."""
        rows = [asdict(line) | {"verdict": self.verdict(line)} for line in self.lines]
        path.write_text(json.dumps({**about, "lines": rows}, indent=1, default=str) + "\n")

    def _text(self, line: Line) -> str:
        value = "" if line.value is None else number(line.value)
        bound = "" if line.most is None else f"<= {number(line.most)}"
        bound = bound if line.least is None else f">= {number(line.least)}"
        verdict = self.verdict(line)
        row = (
            f"{line.section:9} {line.name:47} {value:>11} {line.unit:10} {bound:>11}  {verdict:8} {line.note}"
        )
        return "\n".join([row.rstrip(), *(" " * 10 + detail for detail in line.details)])


def number(value: float) -> str:
    """Three significant digits.

    Example:
        >>> number(151936.0), number(0.00012345), number(38.27), number(0.0)
        ('151936', '1.23e-04', '38.3', '0')
    """
    if value == 0 or (abs(value) >= 100 and value == value and abs(value) < 1e9):
        return f"{value:.0f}"
    return f"{value:.3g}" if 0.01 <= abs(value) < 1e9 else f"{value:.2e}"
