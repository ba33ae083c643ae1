"""Possessive groups: written as atomic ones, and nowhere compiled as they stand."""

import pkgutil
import re
from importlib import import_module

import pytest

import mirrorpo
from mirrorpo.core.patterns import compiled, with_atomic_groups

ROOMS = ("core", "text", "dataset", "reward", "weighting", "config", "launch", "run")


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"(?:a|b)*+c", r"(?>(?:a|b)*)c"),
        (r"(?P<one>a)?+(?P=one)", r"(?>(?P<one>a)?)(?P=one)"),
        (r"(a{2,3}){1,2}+", r"(?>(a{2,3}){1,2})"),
        (r"((x)++|y)++", r"(?>((?>(x)+)|y)+)"),
        (r"[()]*+\(\)*+a++", r"[()]*+\(\)*+a++"),
        (r"([])(]+)?[^]]*+\[(a)", r"([])(]+)?[^]]*+\[(a)"),
    ],
)
def test_groups_become_atomic_and_nothing_else_changes(pattern: str, written: str) -> None:
    assert with_atomic_groups(pattern) == written and with_atomic_groups(written) == written
    re.compile(written)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(?:(?!end).)*+end", "to the end"),
        (r"(?:[0-9]+\s?/)?+[0-9]+", "1/2"),
        (r"(?:(?:a+b)|c)*+d", "aabcd"),
    ],
)
def test_a_group_that_looks_ahead_or_back_matches_under_every_python(pattern: str, text: str) -> None:
    assert compiled(pattern).fullmatch(text)


def test_what_a_group_has_matched_is_not_given_back() -> None:
    assert compiled(r"(?:ab?)*+b").fullmatch("ab") is None


def test_no_compiled_pattern_has_a_possessive_group() -> None:
    names = [
        module.name
        for room in ROOMS
        for module in pkgutil.walk_packages(import_module(f"mirrorpo.{room}").__path__, f"mirrorpo.{room}.")
    ]
    patterns = {
        (name, value.pattern)
        for name in ("mirrorpo", *names)
        if not name.endswith("__main__")
        for value in vars(mirrorpo if name == "mirrorpo" else import_module(name)).values()
        if isinstance(value, re.Pattern) and isinstance(value.pattern, str)
    }
    assert len(patterns) > 30
    assert [entry for entry in sorted(patterns) if with_atomic_groups(entry[1]) != entry[1]] == []
