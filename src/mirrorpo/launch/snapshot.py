"""The code that a job runs: a copy of what was submitted."""

import contextlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from mirrorpo.run.provenance import SNAPSHOT, git

FOLDER = ".code"


class DirtyTree(ValueError):
    """Code that no commit holds."""


def snapshot(root: Path, sweep: Path, *, allow_dirty: bool) -> Path:
    """Copy the code at `root` into the sweep's folder, once for each state of it.

    A clean tree is its commit. With `allow_dirty` a changed one is copied as it stands, new files that git
    does not ignore included.

    Returns:
        The copy's folder, named by git's hash of the tree.

    Raises:
        DirtyTree: for a tree with changes, or no repository at all.
    """
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        raise DirtyTree(
            f"{root} is no git repository with a commit, so no table could say which code made its numbers: "
            f"commit it first"
        )
    changed = git(root, "status", "--porcelain", "--untracked-files=normal") or ""
    if changed and not allow_dirty:
        listed = ", ".join(line.split(maxsplit=1)[-1] for line in changed.splitlines()[:5])
        raise DirtyTree(
            f"{root} has changes that no commit holds "
            f"({listed}{', ...' if changed.count(chr(10)) > 4 else ''}): commit them, "
            "or set hydra.launcher.allow_dirty=true to run a copy of the tree as it is, marked dirty"
        )
    tree = _tree(root) if changed else git(root, "rev-parse", "HEAD^{tree}:./")
    if tree is None:
        raise DirtyTree(f"git cannot read the tree at {root}")
    final = sweep / FOLDER / tree[:16]
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".", dir=final.parent))
        try:
            _extract(root, tree, beside)
            (beside / SNAPSHOT).write_text(json.dumps({"commit": commit, "dirty": bool(changed)}) + "\n")
            # Where another launcher was first, with the same tree, its copy stays.
            with contextlib.suppress(OSError):
                beside.rename(final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return final


def _tree(root: Path) -> str | None:
    # An index of its own: the user's staged changes stay as they are.
    with tempfile.TemporaryDirectory() as folder:
        index = str(Path(folder) / "index")
        git(root, "read-tree", "HEAD", GIT_INDEX_FILE=index)
        git(root, "add", "--all", ".", GIT_INDEX_FILE=index)
        tree = git(root, "write-tree", GIT_INDEX_FILE=index)
        inside = git(root, "rev-parse", "--show-prefix") or ""
    return git(root, "rev-parse", f"{tree}:{inside}")


def _extract(root: Path, tree: str, to: Path) -> None:
    # From the top: inside of a folder git archives only what lies there.
    command = ["git", "-C", git(root, "rev-parse", "--show-toplevel") or str(root), "archive", tree]
    # Through a file: a reader that stops at the archive's end kills the git that still writes its padding.
    with tempfile.TemporaryFile(dir=to.parent) as archive:
        done = subprocess.run(command, stdout=archive, check=False)
        if done.returncode:
            raise DirtyTree(f"git archive {tree} failed with exit status {done.returncode}")
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            # `filter=` is of Python 3.11.4; the attribute is read where there are filters, and nowhere else.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(to)
