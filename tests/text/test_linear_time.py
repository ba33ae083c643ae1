"""Every expression and every reading of a model's text takes time that grows as the text does."""

import gc
import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import pytest

import mirrorpo.reward
import mirrorpo.text
import mirrorpo.weighting
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.reward.math.normal_form import plain_latex
from mirrorpo.reward.math.number import equation_number, first_number, last_number, plain_number
from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.text.fences import fenced_blocks, loose_blocks
from mirrorpo.text.program_parts import Wanted
from mirrorpo.text.thinking import behind_thinking
from mirrorpo.text.written_program import chosen_program, literal_source, source_blocks
from mirrorpo.weighting.equations import calculations
from mirrorpo.weighting.spans import Format
from mirrorpo.weighting.statements import statements

MOST = 2.5  # times the time for twice the text
LENGTH = 6_000
NOTEWORTHY_S = 0.003  # what takes less at that length is no matter
TRIES = 4  # a loaded machine makes a ratio larger now and then, and none smaller four times
# They read a stretch that its caller bounds, in characters; or a dataset's text.
BOUNDED = {"_TURNED": 80, "_MINUS": 80, "_NO_END": 8, "_HEADING": 400, "_ORDER": 400, "_CAPITAL": 400}
BOUNDED |= {"_NUMBER": 400, "_RESULT": 400}
UNITS = (
    " ",
    "\t",
    "\n",
    " \n",
    "`",
    "```",
    "~",
    "a",
    "ab ",
    "1",
    "1,",
    "1,111,",
    "$",
    "\\",
    "{",
    "}",
    "{}",
    "(",
    "-",
    ".",
)
UNITS += (
    "*",
    "#",
    "####",
    "=",
    "1=",
    "\\text{",
    "\\frac{",
    "\\boxed{",
    "not ",
    "<<",
    "<think>",
    "minus ",
    "\\,",
    "_",
    "/",
)
UNITS += (
    "'",
    "\\'",
    "(\n",
    "~ ",
    "1 ",
    "1.",
    "def ",
    ":",
    "x: ",
    "=1",
    "and ",
    "\r",
    "\u2009",
    "e",
    "\\left",
    "```\n",
    "> ",
    "- ",
    "\n- ",
)
ENDS = (
    ("", "x"),
    ("```", "x"),
    ("1", "!"),
    ("\\frac{", "\n"),
    ("=", "="),
    ("\\text{1", "}"),
    ("```\n\n", "`"),
)
# Expressions within functions: each reads a few characters, a gold, or begins with a name at a line's start.
INLINE = {
    "mirrorpo.reward.choice_letter",
    "mirrorpo.reward.math.number",
    "mirrorpo.reward.math.gold",
    "mirrorpo.text.written_program",
    "mirrorpo.weighting.spans",
}
WANTED = Wanted(entry_point="f", prefix="def f():\n", names=["f"])


def format_spans(text: str) -> object:
    return Format(max_spans=5, characters="#=-", min_characters=2)(
        TokenOffsets(text=text, offsets=[(0, len(text))])
    )


READERS: dict[str, Callable[[str], object]] = {
    "fenced_blocks": fenced_blocks,
    "loose_blocks": loose_blocks,
    "literal_source": literal_source,
    "chosen_program": lambda text: chosen_program(text, WANTED),
    "source_blocks": source_blocks,
    "behind_thinking": behind_thinking,
    "marked_answer": marked_answer,
    "statements": statements,
    "calculations": lambda text: calculations(text, unit_words=2, end=len(text), answered=False),
    "last_number": last_number,
    "first_number": first_number,
    "plain_number": plain_number,
    "equation_number": equation_number,
    "plain_latex": plain_latex,
    "format": format_spans,
}


def modules() -> Iterator[ModuleType]:
    for package in (mirrorpo.reward, mirrorpo.text, mirrorpo.weighting):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def uses() -> Iterator[tuple[str, Callable[[str], object]]]:
    """Each expression as it is used: `_NAME.method(` in its module."""
    for module in modules():
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            patterns = value.values() if isinstance(value, dict) else [value]
            methods = set(re.findall(rf"\b{re.escape(name)}(?:\[\w+\])?\.([a-z]+)\(", source))
            for pattern in patterns:
                for method in sorted(methods) if isinstance(pattern, re.Pattern) else ():
                    yield f"{module.__name__}.{name}.{method}", applied(pattern, method, BOUNDED.get(name))


def applied(pattern: re.Pattern[str], method: str, most: int | None) -> Callable[[str], object]:
    function = getattr(pattern, method)
    if method == "sub":
        return lambda text: function("", text[:most])
    if method == "finditer":
        return lambda text: sum(1 for _ in function(text[:most]))
    return lambda text: function(text[:most])


def seconds(read: Callable[[str], object], shape: tuple[str, str, str], length: int, tries: int) -> float:
    start, unit, end = shape
    text = start + unit * (length // len(unit)) + end
    best = float("inf")
    gc.disable()  # what it does between is no matter of the text
    try:
        for _ in range(tries):
            began = time.thread_time()
            read(text)
            best = min(best, time.thread_time() - began)
    finally:
        gc.enable()
    return best


def grows_faster(read: Callable[[str], object], shape: tuple[str, str, str]) -> float:
    """How much longer twice the text takes, where that is more than it may; 0 otherwise."""
    if seconds(read, shape, LENGTH, 1) < NOTEWORTHY_S:
        return 0.0
    least = float("inf")
    for tries in range(1, TRIES + 1):
        ratio = seconds(read, shape, 2 * LENGTH, tries) / seconds(read, shape, LENGTH, tries)
        least = min(least, ratio)
        if least <= MOST:
            return 0.0
    return least


def slow(readers: dict[str, Callable[[str], object]], shapes: Sequence[tuple[str, str, str]]) -> list[str]:
    return [
        f"{name} on {shape}: {ratio:.1f} times"
        for name, read in readers.items()
        for shape in shapes
        if (ratio := grows_faster(read, shape))
    ]


def test_no_expression_takes_more_than_twice_the_time_for_twice_the_text() -> None:
    readers = dict(uses())
    assert len(readers) > 40 and {name.split(".")[1] for name in readers} == {"reward", "text", "weighting"}
    known = [("```", " ", "x"), ("```", "\t", "="), ("", " ", "x"), ("=", "1", "="), ("```a", " ", "`")]
    assert slow(readers, known) == []


def test_no_expression_stands_where_it_is_not_timed() -> None:
    # `re.sub(r"...", ...)` on a model's text would be none of a module's.
    calls = {
        (module.__name__, call)
        for module in modules()
        for call in re.findall(
            r"\bre\.(?!compile|escape|Match|Pattern|[A-Z])[a-z]+\(.*", inspect.getsource(module)
        )
    }
    assert {name for name, _ in calls} <= INLINE, calls


def test_no_reader_takes_more_than_twice_the_time_for_twice_the_text() -> None:
    assert slow(READERS, [("```", " ", "x"), ("1", " ", "!")]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READERS, *dict(uses())])
def test_nothing_does_on_any_shape(name: str) -> None:
    read = (READERS | dict(uses()))[name]
    shapes = [(start, unit, end) for unit in UNITS for start, end in ENDS]
    # 2.7 times from 6,000 to 12,000 for `statements` on this one, and twice from there to 49,000.
    shapes.remove(("```\n\n", "1,", "`"))
    assert slow({name: read}, shapes) == []
