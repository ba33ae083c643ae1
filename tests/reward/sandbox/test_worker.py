"""A worker by itself: what it is made of, what it says of its locks, and how it ends. The rest is in
`test_sandbox` and `test_sandbox_escapes`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from kernel import landlock_version, needs

from mirrorpo.reward.sandbox.worker import (
    NEWEST_LANDLOCK,
    Bounds,
    Mechanism,
    ProgramTask,
    Worker,
    _aliases,
    _bubblewrap,
    _modules,
    _without,
)

BOUNDS = Bounds(cpu_s=1, wall_s=2.0, memory_mb=256)
GOOD = ProgramTask(source="def f(): return 1", setup="", prelude="", tests=["assert f() == 1"], names=["f"])


def test_a_mechanism_says_what_it_is_made_of_and_what_is_open() -> None:
    strong = Mechanism(bubblewrap=True, landlock=7, seccomp=True, ways_out=())
    assert str(strong) == "bubblewrap + landlock 7 + seccomp"
    assert (
        str(Mechanism(bubblewrap=False, landlock=0, seccomp=False, ways_out=("network",)))
        == "limits only (UNSAFE, open: network)"
    )


def test_the_worker_gets_its_modules_in_the_order_of_their_imports() -> None:
    assert [name.rpartition(".")[2] for name, _ in _modules()] == [
        "lock",
        "wire",
        "keeper",
        "threads",
        "program",
        "judge",
    ]
    # Nothing of the project is in its view but these, which import the standard library and one another.
    for _, source in _modules():
        assert all(
            "mirrorpo.reward.sandbox" in line
            for line in source.splitlines()
            if line.startswith("from mirrorpo")
        )


EVERY = ["changing files", "changing limits", "network", "processes", "reading files", "signals", "threads"]
EVERY += ["tracing", "writing files"]
NESTED = """
import os
def f():
    for n in range(30):
        os.makedirs("a/b/c%d" % n)
    open("a/b/c1/x", "w").close()
    return 1
"""


@pytest.mark.parametrize(
    ("landlock", "seccomp", "ways_out"),
    [
        *((version, True, []) for version in range(1, 8)),
        (0, True, ["reading files", "writing files"]),
        (NEWEST_LANDLOCK, False, EVERY),
        (0, False, EVERY),
    ],
)
def test_each_lock_alone_leaves_ways_out_and_both_leave_none(
    landlock: int, seccomp: bool, ways_out: list[str]
) -> None:
    needs("landlock")
    worker = Worker(BOUNDS, bubblewrap=False, landlock=landlock, seccomp=seccomp)
    try:
        assert list(worker.mechanism().ways_out) == ways_out
        assert worker.landlock == min(landlock, landlock_version()) * seccomp
        # Folders within folders, which Landlock's first version lets nobody move, are removed all the same.
        nested = replace(GOOD, source=NESTED)
        reports = worker.run_all([GOOD, nested, nested, GOOD])
        assert [list(report.outcomes) for report in reports] == [["passed"]] * 4
        assert list(Path(worker.folder).iterdir()) == []
    finally:
        worker.close()


def test_bubblewrap_and_seccomp_are_enough_where_there_is_no_landlock() -> None:
    needs("bubblewrap")
    worker = Worker(BOUNDS, bubblewrap=True, landlock=0)
    try:
        assert str(worker.mechanism()) == "bubblewrap + seccomp"
    finally:
        worker.close()


def test_bubblewrap_shows_the_library_and_nothing_of_the_host() -> None:
    needs("bubblewrap")
    command = _bubblewrap({"A": "b"})
    bound = [command[place + 1] for place, word in enumerate(command) if word == "--ro-bind-try"]
    assert "/" not in bound and not any(
        path.startswith(("/etc/p", "/home", "/proc", "/tmp", "/var")) for path in bound
    )
    assert "--unshare-all" in command and "--clearenv" in command and command[-2:] == ["--remount-ro", "/"]


def test_hidden_folders_are_left_out_of_what_can_be_read_under_any_name(tmp_path: Path) -> None:
    library, outside = tmp_path / "lib", tmp_path / "etc"
    for folder in ("python3/site-packages/x", "python3/json", "other"):
        (library / folder).mkdir(parents=True)
    outside.mkdir()
    (library / "python3" / "abc.py").touch()
    (library / "link").symlink_to(outside)
    (tmp_path / "lib64").symlink_to(library)
    hidden = [str(library / "python3" / "site-packages")]
    paths = [str(tmp_path / "lib64"), str(library)]
    kept = [str(library / name) for name in ("other", "python3/abc.py", "python3/json")]
    mixed = [str(library), str(library / "python3")]
    assert _without(paths, hidden) == (kept, mixed) and _without(hidden, hidden) == ([], [])
    assert _without([str(tmp_path / "lib64")], []) == ([str(library)], [])
    assert _aliases(hidden, paths) == [f"{path}/python3/site-packages" for path in paths]


LIBRARY = """
import importlib, os, sys
importlib.invalidate_caches()
import sqlite3, decimal, xml.etree.ElementTree, zoneinfo, ssl, ctypes, lzma
def f(): return 1 if "json" in os.listdir(os.path.dirname(os.__file__)) else 0
"""


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_the_standard_library_can_be_imported_and_listed(kind: str) -> None:
    needs(kind)
    worker = Worker(BOUNDS, bubblewrap=kind == "bubblewrap")
    report = worker.run(replace(GOOD, source=LIBRARY))
    worker.close()
    assert report is not None and report.outcomes == ["passed"], report


def test_tasks_are_answered_in_order_and_a_worker_that_is_gone_answers_no_more() -> None:
    needs("landlock")
    worker = Worker(BOUNDS, bubblewrap=False)
    bad = ProgramTask(
        source="def f(): return 2", setup="", prelude="", tests=["assert f() == 1"], names=["f"]
    )
    assert [list(report.outcomes) for report in worker.run_all([GOOD, bad, GOOD])] == [
        ["passed"],
        ["failed"],
        ["passed"],
    ]
    worker.process.kill()
    worker.process.wait()
    assert worker.run_all([GOOD, GOOD]) == [] and worker.run(GOOD) is None
    folder = Path(worker.folder)
    worker.close()
    assert not folder.exists()


def test_a_line_that_comes_in_pieces_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("landlock")
    worker = Worker(BOUNDS, bubblewrap=False)
    long = ProgramTask(
        source="def f(): return 1", setup="", prelude="", tests=["assert f() == 1"] * 9000, names=["f"]
    )
    report = worker.run(long)
    worker.close()
    assert (
        report is not None
        and len(report.outcomes) == 9000
        and len(json.dumps(list(report.outcomes))) > 1 << 16
    )


def test_a_worker_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorpo.reward.sandbox.worker.BOOT", "raise SystemExit('no module of that name')")
    with pytest.raises(RuntimeError, match=r"did not start \(no module of that name\)"):
        Worker(BOUNDS, bubblewrap=False)
