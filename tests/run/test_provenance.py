"""Which code made a run: the hash that decides it, and a copy that remembers its commit."""

import json
import subprocess
from pathlib import Path

import pytest

from mirrorpo.run.provenance import SNAPSHOT, code_hash, job_id, provenance, taken_from


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src" / "mirrorpo" / "algo").mkdir(parents=True)
    (tmp_path / "train.py").write_text("main()\n")
    (tmp_path / "src" / "mirrorpo" / "algo" / "ratio.py").write_text("r = 1\n")
    return tmp_path


def test_code_is_the_same_wherever_it_lies(tree: Path) -> None:
    other = tree / "copy"
    subprocess.run(
        ["cp", "-r", str(tree / "src"), str(tree / "train.py"), "."],
        cwd=(other.mkdir(), other)[1],
        check=True,
    )
    assert code_hash(other) == code_hash(tree) and len(code_hash(tree)) == 16


def test_any_file_of_the_package_changes_it_and_notes_beside_do_not(tree: Path) -> None:
    before = code_hash(tree)
    (tree / "README.md").write_text("words\n")
    (tree / "src" / "mirrorpo" / "notes.txt").write_text("words\n")
    assert code_hash(tree) == before
    (tree / "src" / "mirrorpo" / "algo" / "ratio.py").write_text("r = 2\n")
    after = code_hash(tree)
    assert after != before
    (tree / "src" / "mirrorpo" / "algo" / "ratio.py").rename(tree / "src" / "mirrorpo" / "ratio.py")
    assert code_hash(tree) not in (before, after)


def test_another_version_of_torch_is_another_code(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash(tree)
    monkeypatch.setattr("mirrorpo.run.provenance._version", lambda name: "9.9" if name == "torch" else None)
    assert code_hash(tree) != before


def test_a_copy_says_which_commit_it_is_of_also_inside_another_repository(tree: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    (tree / SNAPSHOT).write_text(json.dumps({"commit": "abc", "dirty": True}))
    assert taken_from(tree) == {"commit": "abc", "dirty": True}
    assert provenance(tree)["commit"] == "abc"


@pytest.mark.parametrize(
    "found, named",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
    ],
)
def test_a_job_is_named_as_squeue_names_it(
    found: dict[str, str], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert job_id() == named


def test_an_installed_package_says_the_commit_it_was_built_from_and_no_other(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the environment of somebody's own repository.
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "first"]
    subprocess.run(["git", *commit], cwd=tree, check=True)
    package = tree / "src" / "mirrorpo"
    in_clone = code_hash(tree)
    monkeypatch.setattr("mirrorpo.config.paths.PACKAGE", package)
    assert taken_from(package) == {"commit": None, "dirty": False} and code_hash(package) == in_clone
    (package / SNAPSHOT).write_text(json.dumps({"commit": "abc", "dirty": False}))
    assert taken_from(package) == {"commit": "abc", "dirty": False}
