"""The page of what was tested and run is as its command makes it, but for commits that came since."""

import re
import subprocess
from pathlib import Path

import pytest
from cli import ROOT

from mirrorpo.tools import tracker
from mirrorpo.tools.marked_page import written
from mirrorpo.tools.tracker import COLUMNS, GROUPS, MARKERS, NONE, Row, Tree, page, results, rows

PAGE = ROOT / "docs" / "tracker.md"
TREE = Tree(ROOT)
AGAIN = "run: python -m mirrorpo.tools.tracker --write docs/tracker.md"


def shown() -> dict[tuple[str, str], list[str]]:
    """The rows of the page by group and name."""
    out: dict[tuple[str, str], list[str]] = {}
    group = ""
    for line in PAGE.read_text().splitlines():
        if match := re.search(r"of `conf/(\w+)/`", line):
            group = match[1]
        if line.startswith("| `"):
            cells = line.strip("| ").split(" | ")
            out[group, cells[0].strip("`")] = cells
    return out


def test_the_page_holds_what_the_command_makes_but_for_later_commits() -> None:
    known, (_, change, tests, *of_results) = results(TREE), range(len(COLUMNS))
    held = shown()
    assert list(held) == [(group, name) for group in GROUPS for name in TREE.names(group)], AGAIN
    for (group, name), cells in held.items():
        row = Row(TREE, group, name)
        made = row.cells(known)
        assert [cells[at] for at in of_results] == [made[at] for at in of_results], (group, name, AGAIN)
        # Other tests may have come to name it since; those that stand here have to be among them.
        paths = {f"`{path.relative_to(ROOT).as_posix()}`" for path in row.tests}
        assert set(re.findall("`[^`]+`", cells[tests])) <= paths, (group, name, AGAIN)
        # No page can know the commit that it is part of; a clone without its history knows none.
        assert not TREE.changes or cells[change] in row.commits(), (group, name, cells[change], AGAIN)


def test_every_choice_has_tests_and_results_are_those_that_are_committed() -> None:
    made = {
        group: {cells[0].strip("`"): cells for cells in of_group} for group, of_group in rows(TREE).items()
    }
    assert all(cells[2] != NONE for of_group in made.values() for cells in of_group.values())
    kl = made["divergence"]["kl"]
    assert "accuracy 85.1% [83.7, 86.5]" in kl[3]
    assert "results/tiny_gbmpo/tables/accuracy_by_divergence.md" in kl[3]
    assert "area 0.672 [0.648, 0.697]" in made["weighting"]["counterfactual_sharp"][3]
    assert "120 runs" in made["algo"]["dapo"][3] and made["algo"]["gspo"][3] == NONE
    # Files that begin with another's have its classes too.
    assert Row(TREE, "weighting", "counterfactual_sharp").modules


def test_without_the_history_the_page_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    with pytest.raises(ValueError, match="git does not know every commit here"):
        page(Tree(tmp_path))
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one", "--allow-empty"]):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path), *command], check=True
        )
    monkeypatch.setattr(tracker, "git", lambda root, *arguments: "true")
    assert Tree(tmp_path).changes == {}
    with pytest.raises(ValueError, match="the page needs the two lines"):
        written("no markers", "table", MARKERS)
