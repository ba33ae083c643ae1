"""What parses has a tree, and nothing that does not raises or warns."""

import pytest

from mirrorpo.text.python_source import parsed


@pytest.mark.parametrize("source", ["", "x = 1", "x = '\\.'", "def f(): ...", "1 is 1"])
def test_python_has_a_tree(source: str) -> None:
    assert parsed(source) is not None


@pytest.mark.parametrize("source", ["x =", "\0", "(" * 10_000, "x = " + "-" * 200_000 + "1", "\ud800"])
def test_what_is_none_has_none(source: str) -> None:
    assert parsed(source) is None
