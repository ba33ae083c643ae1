"""The code a job runs is the code that was submitted, byte for byte."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorpo.launch.snapshot import snapshot
from mirrorpo.run.provenance import code_hash, git, taken_from


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "mirrorpo").mkdir(parents=True)
    (root / "src" / "mirrorpo" / "loss.py").write_text("loss = 1\n")
    (root / "train.py").write_text("main()\n")
    (root / ".gitignore").write_text("outputs/\n")
    (root / "outputs").mkdir()
    (root / "outputs" / "big").write_text("numbers")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def test_a_clean_tree_is_copied_once_and_knows_its_commit(repository: Path, tmp_path: Path) -> None:
    copy = snapshot(repository, tmp_path / "sweep", allow_dirty=False)
    assert code_hash(copy) == code_hash(repository) and not (copy / "outputs").exists()
    assert taken_from(copy) == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    stamp = (copy / "train.py").stat().st_mtime_ns
    assert (
        snapshot(repository, tmp_path / "sweep", allow_dirty=False) == copy
        and (copy / "train.py").stat().st_mtime_ns == stamp
    )


def test_edits_after_the_submission_do_not_reach_the_copy(repository: Path, tmp_path: Path) -> None:
    copy = snapshot(repository, tmp_path / "sweep", allow_dirty=False)
    (repository / "src" / "mirrorpo" / "loss.py").write_text("loss = 2\n")
    assert (copy / "src" / "mirrorpo" / "loss.py").read_text() == "loss = 1\n"


@pytest.mark.parametrize("name", ["src/mirrorpo/loss.py", "src/mirrorpo/new.py"])
def test_a_changed_tree_is_refused_unless_asked_and_then_marked(
    repository: Path, tmp_path: Path, name: str
) -> None:
    (repository / name).write_text("loss = 3\n")
    with pytest.raises(ValueError, match=rf"{name}.*allow_dirty=true"):
        snapshot(repository, tmp_path / "sweep", allow_dirty=False)
    copy = snapshot(repository, tmp_path / "sweep", allow_dirty=True)
    assert (copy / name).read_text() == "loss = 3\n" and not (copy / "outputs").exists()
    assert json.loads((copy / ".snapshot.json").read_text())["dirty"] is True
    # The user's own index is as it was.
    assert git(repository, "diff", "--cached", "--name-only") == ""


def test_a_project_inside_a_larger_repository_is_copied_alone(repository: Path, tmp_path: Path) -> None:
    inner = repository / "src"
    for dirty in (False, True):
        if dirty:
            (inner / "mirrorpo" / "loss.py").write_text("loss = 4\n")
        copy = snapshot(inner, tmp_path / "sweep", allow_dirty=dirty)
        assert (copy / "mirrorpo" / "loss.py").read_text() == f"loss = {4 if dirty else 1}\n" and not (
            copy / "train.py"
        ).exists()


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no git repository"):
        snapshot(tmp_path, tmp_path / "sweep", allow_dirty=True)


@pytest.fixture
def around_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script first on PATH that calls the real git, `{git}`, itself."""

    def put(script: str) -> None:
        first = tmp_path / "first"
        first.mkdir()
        (first / "git").write_text("#!/bin/sh\n" + script.format(git=shutil.which("git")))
        (first / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{first}{os.pathsep}{os.environ['PATH']}")

    return put


# `git archive` pads its last record with zeros. A reader that stops at the archive's end and closes the pipe
# killed it in the middle of them: a sweep on SLURM failed with "exit status -13", once in hundreds.
def test_an_archive_is_read_to_the_last_byte_that_git_writes(
    repository: Path, tmp_path: Path, around_git: Callable[[str], None]
) -> None:
    around_git(
        'for word; do if [ "$word" = archive ]; then set -e; {git} "$@"; exec head -c 4000000 /dev/zero; fi\n'
        "done\n"
        'exec {git} "$@"\n'
    )
    copy = snapshot(repository, tmp_path / "sweep", allow_dirty=False)
    assert code_hash(copy) == code_hash(repository)


def test_an_archive_that_git_fails_to_write_is_an_error_and_leaves_nothing(
    repository: Path, tmp_path: Path, around_git: Callable[[str], None]
) -> None:
    around_git('for word; do if [ "$word" = archive ]; then exit 7; fi; done\nexec {git} "$@"\n')
    with pytest.raises(ValueError, match="exit status 7"):
        snapshot(repository, tmp_path / "sweep", allow_dirty=False)
    assert list((tmp_path / "sweep" / ".code").iterdir()) == []
