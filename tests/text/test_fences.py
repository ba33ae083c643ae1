r"""Fenced blocks as CommonMark has them, and that a text of any shape takes time in its length."""

import time

from hypothesis import example, given
from hypothesis import strategies as st

from mirrorpo.text.fences import LONGEST_MARKDOWN, fenced_blocks, is_python, loose_blocks, stretch

# text: its blocks, as (info, source)
FORMS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "```\nx\n```": [("", "x\n")],
    "~~~ py\nx\n~~~\n": [("py", "x\n")],
    "```a b=1\nx\n```\n~~~\ny\n~~~": [("a b=1", "x\n"), ("", "y\n")],
    "````\n```\nx\n```\n````": [("", "```\nx\n```\n")],
    "```\nx\n    ```\ny\n```": [("", "x\n    ```\ny\n")],
    "```\nx": [("", "x")],
    "```": [("", "")],
    "1. a\n\n   ```\n   if x:\n     y\n   ```\nb": [("", "if x:\n  y\n")],
    "- ```\n  x\n  ```": [("", "x\n")],
    "> ~~~\n> x\n>  y\n> ~~~": [("", "x\n y\n")],
    "  ```\n  x\n y\n  ```": [("", "x\ny\n")],
    "a\r\n```py\r\nx\r\ny\r\n```\r\nb": [("py", "x\ny\n")],
    "    ```\n    x\n    ```": [],
    "a ```\nx\n``` b": [("b", "")],
    "``` a`b\nx": [],
}


def test_blocks_are_those_of_commonmark() -> None:
    for text, expected in FORMS.items():
        assert [(block.info, block.source) for block in fenced_blocks(text)] == expected, text


def test_a_loose_block_may_stand_in_a_line() -> None:
    assert [block.source for block in loose_blocks("a ```py\nx\ny``` b ```c``` d e\n```\nz")] == ["x\ny", "z"]


def test_what_names_python() -> None:
    for info in (
        "",
        "python",
        "Python3",
        "py",
        "{.python .x}",
        "{python}",
        "python:a.py",
        "lang-python",
        "a.py x",
    ):
        assert is_python(info), info
    for info in ("bash", "pycon", "python-repl", "{.bash}", "text", "pytb", "output", "cpp", "json python"):
        assert not is_python(info), info


PIECES = [
    "```", "~~~", "\n", "\r\n", "\r", "x", " ", "    ", "- ", "> ", "1. ", "\t", "py", "`",
    "\0", "\u2028", "\x0c",
]  # fmt: skip


@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("- \t```\n\t\tx\n")
def test_a_blocks_lines_stand_where_it_says(text: str) -> None:
    for block in (*fenced_blocks(text), *loose_blocks(text), stretch(text, 0, len(text))):
        letters = [i for i, letter in enumerate(block.source) if letter == "x"]
        for first, last in block.intervals([(i, i + 1) for i in letters]):
            assert text[first:last] == "x" and block.start <= first < block.end


LONG = [
    "```\n", "~~~", "> ", "- ", "- x\n", "- ```\n  ", "> ```\n", "1. ", "`", "\t", "``` `\n", "```py\nx```",
]  # fmt: skip


def test_time_is_in_a_texts_length() -> None:
    for piece in LONG:
        for length in (LONGEST_MARKDOWN // 16, 2 * LONGEST_MARKDOWN):
            start = time.process_time()
            fenced_blocks(piece * (length // len(piece)))
            assert time.process_time() - start < 1.0, (piece, length)
