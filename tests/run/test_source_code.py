"""Modules that a config names are found and hashed with what they import, without being run."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mirrorpo.run.source_code import locate, outside_code

SOURCES = {
    # Running any of these would fail.
    "src_alone.py": "import os, src_helper\nfrom src_packed import thing\nimport numpy as np\n1 / 0\n",
    "src_helper.py": "from src_loose.deep import part\nimport mirrorpo.core.batch\n1 / 0\n",
    "src_packed/__init__.py": "",
    "src_packed/below/thing.py": "import src_alone\n1 / 0\n",
    "src_packed/.hidden/thing.py": "1 / 0\n",
    "src_loose/deep/part.py": "from . import sibling\nfrom .other import name\n",
    "src_loose/deep/sibling.py": "",
    "src_loose/deep/other.py": "",
    "src_loose/unused.py": "",
    "src_broken.py": "def (:\n",
}
ALL = ["src_alone", "src_helper", "src_packed"] + [
    f"src_loose.deep.{name}" for name in ("part", "sibling", "other")
]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [name for name in before if before[name] != after.get(name)]


def test_a_module_is_hashed_with_what_it_imports_and_nothing_is_run(sources: Path) -> None:
    assert sorted(outside_code(["src_alone.Reward"])) == sorted(ALL)
    assert outside_code(["src_loose.unused.function"]).keys() == {"src_loose.unused"}
    assert not [name for name in sys.modules if name.startswith("src_")]


def test_a_change_of_any_of_them_changes_its_own_hash_alone(sources: Path) -> None:
    before = outside_code(["src_alone.Reward"])
    for name, unit in (
        ("src_helper.py", "src_helper"),
        ("src_packed/below/thing.py", "src_packed"),
        ("src_loose/deep/sibling.py", "src_loose.deep.sibling"),
    ):
        text = (sources / name).read_text()
        (sources / name).write_text(text + "# another line\n")
        assert differing(before, outside_code(["src_alone.Reward"])) == [unit], name
        (sources / name).write_text(text)
    for name in ("src_packed/.hidden/thing.py", "src_loose/unused.py"):
        (sources / name).write_text("x = 2\n")
    assert outside_code(["src_alone.Reward"]) == before


def test_the_same_sources_elsewhere_are_the_same(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outside_code(["src_packed.Part"])
    (sources / "src_packed").rename(sources / "src_loose" / "src_packed")
    monkeypatch.syspath_prepend(sources / "src_loose")
    assert outside_code(["src_packed.Part"]) == before


def test_what_is_known_otherwise_or_missing_is_not_hashed(sources: Path) -> None:
    targets = [
        "mirrorpo.algo.row.Algorithm",
        "functools.partial",
        "hydra.utils.get_method",
        "src_nowhere.X",
        "",
    ]
    assert outside_code(targets) == {}
    assert outside_code(["src_broken.X"]).keys() == {"src_broken"}


def test_an_installed_package_counts_where_it_is_named(sources: Path) -> None:
    unit = locate("yaml.YAMLObject")
    assert unit is not None and unit.installed and "loader.py" in unit.files
    assert outside_code(["yaml.YAMLObject"]).keys() == {"yaml"}
