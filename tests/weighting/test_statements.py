"""Statements of Python source in a completion: where each begins and ends, and what if it is no Python."""

import ast
import importlib.util
import itertools
import json
import textwrap
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from real_data import DATA, needs

from mirrorpo.weighting import statements as module
from mirrorpo.weighting.statements import statements


def texts(text: str) -> list[str]:
    return [text[start:end] for start, end in statements(text)]


SOURCE = textwrap.dedent('''\
    import re, math  # both

    @cache
    async def f(x: int,
                y=(1, 2)) -> int:
        """Says
        something."""
        # a comment
        if x: return x; y = 2
        elif y:

            pass
        else:
            return [a
                    for a in "# no comment"]
    with open("é") as f: g = 1; h = "日本"; k
    try: a
    except (E, F): b
    finally: c
    match x:
        case 1: y
    class A: "doc"
    total = 1 + \\
        2
    ''')
PARTS = [
    "import re, math", "@cache", "async def f(x: int,\n            y=(1, 2)) -> int:",
    '"""Says\n    something."""', "if x:", "return x;", "y = 2", "elif y:", "pass", "else:",
    'return [a\n                for a in "# no comment"]', 'with open("é") as f:', "g = 1;", 'h = "日本";',
    "k", "try:", "a", "except (E, F):", "b", "finally:", "c", "match x:", "case 1:", "y", "class A:",
    '"doc"', "total = 1 + \\\n    2",
]  # fmt: skip


def test_statements_of_every_kind() -> None:
    for end in ("\n", "\r\n", "\r"):
        assert texts(SOURCE.replace("\n", end)) == [part.replace("\n", end) for part in PARTS]


def test_where_the_source_stands() -> None:
    for text, expected in (
        ("Sure.\n```python\nx = 1\n```\nDone.", ["x = 1"]),
        ("```\nx = 1\n```\nor\n```py\ny = 2\n```", ["x = 1", "y = 2"]),
        ("```bash\npip install x\n```\n```Python\ny = 2\n```", ["y = 2"]),
        ("So ```python\nx = 1\ny = 2", ["x = 1", "y = 2"]),
        ("```python\nx = 1", ["x = 1"]),
        ("x = 1\ny = 2", ["x = 1", "y = 2"]),
        ("  x = 1\n  y = 2\n", ["x = 1", "y = 2"]),
        ("", []),
        ("\n# nothing\n", []),
        ("```", []),
    ):
        assert texts(text) == expected, text


NOT_PYTHON = {
    "does not parse: logical lines": (
        "x = [1,\n 2]\ny = = 3\nif z: w",
        ["x = [1,\n 2]", "y = = 3", "if z: w"],
    ),
    "a bracket never closed: lines from there": (
        "x = [1,\n 2]\ny = (3,\n  4\n# c\n",
        ["x = [1,\n 2]", "y = (3,", "4"],
    ),
    "a string never closed: lines from there": (
        'x = [1,\n 2]\ny = """a\nb',
        ["x = [1,\n 2]", 'y = """a', "b"],
    ),
    "dedent to nowhere: lines from there": ("if x:\n    y\n  z\nw", ["if x:", "y", "z", "w"]),
    "cut off by the length limit": ("x = 1\nreturn (", ["x = 1", "return ("]),
    "prose": ("The answer is simple.\nCall f.", ["The answer is simple.", "Call f."]),
    "a warning of the parser": ("x = '\\d'; y", ["x = '\\d';", "y"]),
    "a quote never closed": ("x = ' \ny", ["x = '", "y"]),
    "a null character": ("x = 1\0\ny = 2", ["x = 1\0", "y = 2"]),
    "a lone surrogate": ("x = '\ud800'\ny", ["x = '\ud800'", "y"]),
}


def test_source_that_is_not_python() -> None:
    for name, (text, expected) in NOT_PYTHON.items():
        assert texts(text) == expected, name


def test_very_long_source_is_taken_line_by_line() -> None:
    text = "x = [1,\n2]\n" * 10_000
    assert texts(text) == ["x = [1,", "2]"] * 10_000


PIECES = [
    "x", "=", "1", "\n", "\n    ", "\n  ", "if x:", "else:", "def f():", ";", "(", ")", "[", "]", "\"", "'",
    "\"\"\"", "#", "\\", "\\\n", "```", "```py\n", "é", "日", "\r", "\r\n", "\x0c", "\x00", "\ud800", "f'{",
    "}'", "@", ":=", "match x:", "case _:", "$", "?", "0777", "\u2028", "\ufeff", "\t",
]  # fmt: skip


@given(text=st.text() | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("f'''{\n")
@example("\ufeffx = 1")
@example("é = 1; x = 2\n")
def test_no_text_raises_and_statements_are_in_order(text: str) -> None:
    intervals = statements(text)
    assert intervals == statements(text)
    before = 0
    for start, end in intervals:
        assert before <= start < end <= len(text)
        assert text[start:end].strip()
        before = end


@needs("mbpp/mbpp.jsonl")
@pytest.mark.filterwarnings("ignore")
def test_every_statement_of_mbpps_solutions_is_found_and_nothing_is_left() -> None:
    head = "Here it is.\n```python\n"
    for line in (DATA / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()[:150]:
        code = json.loads(line)["code"].replace("\r\n", "\n")
        intervals = [
            (start - len(head), end - len(head)) for start, end in statements(f"{head}{code}\n```\nIt works.")
        ]
        lines = code.split("\n")
        nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
        starts = {sum(len(line) + 1 for line in lines[: node.lineno - 1]) + node.col_offset for node in nodes}
        assert starts <= {start for start, _ in intervals}
        for start, end in reversed(intervals):
            code = code[:start] + code[end:]
        assert all(not rest.strip() or rest.strip().startswith("#") for rest in code.split("\n"))


LONG = [
    "(",
    "-",
    "x;",
    "x\n",
    "if x:\n ",
    "if x: ",
    '"',
    "'''",
    "f'{",
    "\\\n",
    "lambda:",
    "```",
    "```python\n",
    "not ",
    "é;",
    "x,",
    "\\",
    "\0",
    "@x\n",
    "a.",
    "()",
]


def test_long_texts_end() -> None:
    # Read without the shape checks of the tests, which take longer than the work.
    spec = importlib.util.spec_from_file_location("unchecked", str(module.__file__))
    assert spec is not None and spec.loader is not None
    unchecked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchecked)
    for piece, length in itertools.product(LONG, (module.LONGEST_SOURCE, 100_000)):
        start = time.process_time()
        unchecked.statements(piece * (length // len(piece)))
        assert time.process_time() - start < 1.0, (piece, length)
