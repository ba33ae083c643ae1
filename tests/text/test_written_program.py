r"""Which program a completion holds; what the verdicts are is tested in `reward/code/test_code_tests`."""

import time

import program_forms
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorpo.text.program_parts import LONGEST_SOURCE, Wanted, without_demonstrations
from mirrorpo.text.written_program import (
    chosen_program,
    completed,
    literal_program,
    literal_source,
    source_blocks,
)

F = Wanted(entry_point="f", prefix="", names=["f", "Pair"])
AHEAD = Wanted(entry_point="f", prefix='import math\n\ndef f(x):\n    """Square."""\n', names=["f"])

LITERAL = {
    "x = 1": "x = 1",
    "```python\nx = 1\n```": "x = 1\n",
    "\n```\nx = 1\n```\n": "x = 1\n",
    "```python\nx = 1": "x = 1",
    "```python\nx = 1```": "x = 1",
    "~~~ {.python}\nx = 1\n~~~": "x = 1\n",
    "x = 1\n```\n": "x = 1\n",
    "Here:\n```\nx = 1\n```": "Here:\n```\nx = 1\n```",
    "```bash\nls\n```": "```bash\nls\n```",
    "x = 1\n```\nThat is it.": "x = 1\n```\nThat is it.",
    "": "",
}


def test_the_literal_reading_takes_all_of_a_text() -> None:
    for text, source in LITERAL.items():
        assert literal_source(text) == source, text


# text: the program that it holds
CHOSEN = {
    # blocks up to the last definition, and of what stands behind what is lacking
    "```\nimport re\n```\nand\n```\ndef f(): pass\n```\n```\nx = y\n```": "import re\n\ndef f(): pass\n",
    "```\ndef f(): return g()\n```\n```\nimport re\ndef g(): return h\nf()\n```\n```\nh = 1\n```":
        "def f(): return g()\n\ndef g(): return h\nh = 1\n",
    "```\ndef f(): return T\nT = {}\n```\n```\nT.update(a=1)\nprint(T, z)\n```":
        "def f(): return T\nT = {}\n\nT.update(a=1)\n",
    "```\ndef f(p): pass\n```\n```\nclass Pair: pass\n```": "def f(p): pass\n\nclass Pair: pass\n",
    "```\ndef f(): return 1\n```\n```\ndef f(): return 2\n```": "def f(): return 1\n\ndef f(): return 2\n",
    # what does not parse
    "def f(): pass\n\n>>> f()\nDone.": "def f(): pass\n\n",
    "Well:\n\ndef f():\n    return [\n]\n\nIt works.": "def f():\n    return [\n]\n\n",
    "def f(): return 1\n\ndef f():\n    return (": "def f(): return 1\n\n",
    'def f():\n    """\nText.\n"""\n    return 1\n\nDone.': 'def f():\n    """\nText.\n"""\n    return 1\n\n',
    # nothing of what is wanted: as it is
    "def g(): pass": "def g(): pass",
    "So ```py\nx = 1``` it": "x = 1",
    "f()": "f()",
}  # fmt: skip


def test_the_chosen_reading_finds_what_is_wanted() -> None:
    for text, program in CHOSEN.items():
        assert chosen_program(text, F) == program, text


def test_what_goes_on_with_the_problems_code_or_writes_it_anew() -> None:
    ahead = AHEAD.prefix
    for source, program in {
        "    return x * x\nprint(f(2))\n\ndef g(): ...": f"{ahead}    return x * x\n",
        "    return g(x)\nprint(f(2))\n\ndef g(x): ...": f"{ahead}    return g(x)\n\ndef g(x): ...\n",
        "y = x\nreturn y": f"{ahead}    y = x\n    return y\n",
        "y = x\n    return y": f"{ahead}    y = x\n    return y\n",
        "import math\ndef f(x): return x": f"{ahead}import math\ndef f(x): return x",
        "f = lambda x: x": f"{ahead}f = lambda x: x",
        "    pass": f"{ahead}    pass\n",
    }.items():
        assert completed(source, AHEAD) == program, source
    assert completed("x = 1", F) == "x = 1"


def test_what_a_program_shows_of_itself_is_left_out() -> None:
    for behind, left in {
        "print(f())": "pass",
        "x = f(); y = 1": "pass; y = 1",
        "def main():\n    f()\nmain()": "def main():\n    f()\npass",
        "for x in f():\n    assert x\ng()": "pass\ng()",
        "f.n = f()": "f.n = f()",
        "f = g(f)": "f = g(f)",
        "h = f": "h = f",
        "T.append(1)": "T.append(1)",
        "Pair = f()": "Pair = f()",
        "if f:\n    def g(): ...": "if f:\n    def g(): ...",
    }.items():
        assert without_demonstrations(f"def f(): pass\n{behind}", F) == f"def f(): pass\n{left}", behind


def test_credit_finds_source_where_the_reward_does() -> None:
    for text, expected in {
        "<think>```\ndef f(): 1\n```</think>\n~~~\ndef f(): 2\n~~~\n```\nx\n```": ["def f(): 2\n"],
        "def f(): 1\n```\nThat is it.": ["def f(): 1\n"],
        "```\nimport a\n```\n```\nx = =\n```\n```\ndef f(): 1\n```\n```\nx\n```": [
            "import a\n",
            "def f(): 1\n",
        ],
        "```\nx = =\n```": ["x = =\n"],
        "1. a\n\n   ```\n   def f(): 1\n   ```": ["def f(): 1\n"],
        "x = =": ["x = ="],
    }.items():
        assert [block.source for block in source_blocks(text)] == expected, text


PIECES = [
    "def f(x):", "def g():", "    return 1", "return x", "f(1)", "```", "```py", "~~~", "\n", "\n\n", "x = 1",
    "x = y", "(", '"""', ">>> ", "- ", "> ", "if x:", "else:", "@f", ";", "class A:", "\0", "\r", "é",
    "import a", "\t", "    ", "from __future__ import annotations", "<think>", "</think>", "lambda: f",
    "\ud800", "\ufeff",
]  # fmt: skip


@given(text=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("```\n\ud800```")
def test_no_text_raises(text: str) -> None:
    for wanted in (F, AHEAD):
        for program in (literal_program(text, wanted), chosen_program(text, wanted)):
            without_demonstrations(program, wanted)
    assert all(0 <= block.start <= block.end <= len(text) for block in source_blocks(text))


def test_the_statements_of_a_form_stand_in_its_text() -> None:
    for form, _ in program_forms.MBPP:
        text = program_forms.written(form)
        for block in source_blocks(text):
            words = [i for i in range(len(block.source)) if block.source.startswith("return", i)]
            for first, last in block.intervals([(i, i + 6) for i in words]):
                assert text[first:last] == "return", form


LONG = [
    "(", "x\n", "x;", "f()\n", '"""\n', "f'{", "- ```\n", "```\nx = 1\n```\n", "def f(): return f()\nf()\n",
    "def g(): f()\ng()\n", "return 1\n", "    return 1\n", "@f\n", "{**{", "not ",
]  # fmt: skip


def test_time_is_in_a_texts_length() -> None:
    for piece in LONG:
        for length in (LONGEST_SOURCE // 16, 2 * LONGEST_SOURCE):
            text = piece * (length // len(piece))
            start = time.process_time()
            for program in (literal_program(text, AHEAD), chosen_program(text, AHEAD)):
                without_demonstrations(program, AHEAD)
            assert time.process_time() - start < 1.0, (piece, length)
