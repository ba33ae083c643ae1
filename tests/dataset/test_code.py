"""What a row becomes, and what is said of a row that can judge nothing."""

from typing import Any

import pytest

from mirrorpo.dataset.code import Style, chosen, entry_point, imports, plain, problem, signature

BARE = Style(question="{text}", system="", user="{question}", fenced=False)
SIGNED = Style(question="{text}\n{signature}", system="", user="{question}", fenced=False)
TESTED = Style(question="{text}\n{tests}", system="", user="{question}", fenced=True)
CODE = "def add(a, b=1, *rest):\r\n\treturn a + b"
TESTS = ["assert add(1) == 2\r\n", "assert add(1, 2) == 3", "assert add(0, 0) == 0"]


def made(code: str = CODE, tests: list[str] = TESTS, visible: int = 0, style: Style = BARE) -> Any:
    return problem(
        "m/1", " Add. ", code, tests, visible=visible, setup="x = 1\r\n", prelude="import math", style=style
    )


def test_a_row_becomes_a_prompt_with_plain_line_ends() -> None:
    prompt = made()
    assert (prompt.uid, prompt.question, prompt.gold, prompt.demonstration) == (
        "m/1",
        "Add.",
        "def add(a, b=1, *rest):\n\treturn a + b",
        prompt.gold,
    )
    checks = prompt.checks
    assert (checks.entry_point, checks.setup, checks.prelude, checks.fault) == (
        "add",
        "x = 1",
        "import math",
        "",
    )
    assert (list(checks.visible), list(checks.hidden)) == (
        [],
        ["assert add(1) == 2", "assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    )


def test_the_first_tests_are_visible_and_the_others_hidden() -> None:
    prompt = made(visible=2, style=TESTED)
    assert prompt.question == "Add.\nassert add(1) == 2\nassert add(1, 2) == 3"
    assert (len(prompt.checks.visible), list(prompt.checks.hidden)) == (2, ["assert add(0, 0) == 0"])
    assert prompt.demonstration == f"```python\n{prompt.gold}\n```"


def test_all_tests_may_be_visible_as_in_the_papers_evaluation() -> None:
    checks = made(visible=3, style=TESTED).checks
    assert (len(checks.visible), list(checks.hidden), checks.fault) == (3, [], "")


def test_a_style_may_give_the_signature() -> None:
    assert made(style=SIGNED).question == "Add.\ndef add(a, b=1, *rest):"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tests": ["assert add(1) == 2", "assert add(1) = 2"]}, "test 2 does not parse"),
        ({"tests": []}, "there are no tests"),
        ({"code": "def add(a:"}, "the reference does not parse"),
        (
            {"code": "def sub(a): pass"},
            r"the first test calls no function of the reference \(it defines sub\)",
        ),
        ({"code": "x = 1"}, r"the first test calls no function of the reference \(it defines none\)"),
        ({"code": "def add(): return '\0'"}, "the reference does not parse"),
    ],
)
def test_a_row_that_can_judge_nothing_has_its_fault(changes: dict[str, Any], fault: str) -> None:
    import re

    assert re.fullmatch(fault, made(**changes).checks.fault)


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("assert f(1) == 1", "f"),
        ("assert set(f([1])) == set(g(1))", "f"),
        ("assert g(f(1)) == 2", "g"),
        ("assert sum(3, 4) == 7", "sum"),
    ],
)
def test_the_entry_point_is_the_references_outermost_function_in_the_first_test(test: str, name: str) -> None:
    assert entry_point([test], "def f(x): ...\ndef g(x): ...\ndef sum(a, b): ...") == name


def test_signature_and_imports_of_what_does_not_parse_are_empty() -> None:
    assert signature("def f(:", "f") == "" and imports("import") == "" and signature("x = 1", "f") == ""


def test_imports_are_those_at_the_top() -> None:
    assert (
        imports("import re, math as m\nfrom a.b import c\ndef f():\n    import sys")
        == "import re, math as m\nfrom a.b import c"
    )
    assert plain("a\rb\r\nc\n\n") == "a\nb\nc"


@pytest.mark.parametrize(
    ("style", "visible", "fix"),
    [
        ("other", 0, "dataset.style=other: choose one of bare, tested"),
        (
            "tested",
            0,
            "dataset.visible_tests=0 with dataset.style=tested: set dataset.visible_tests=1 or more",
        ),
        ("bare", 1, "dataset.visible_tests=1 with dataset.style=bare: set dataset.visible_tests=0"),
        ("empty", 0, "dataset.styles.empty: its question must hold"),
    ],
)
def test_a_style_that_does_not_fit_is_refused_with_the_fix(style: str, visible: int, fix: str) -> None:
    styles = {"bare": BARE, "tested": TESTED}
    with pytest.raises(ValueError, match=fix):
        chosen(
            styles
            | (
                {"empty": Style(question="", system="", user="{question}", fenced=False)}
                if style == "empty"
                else {}
            ),
            style,
            visible,
        )
