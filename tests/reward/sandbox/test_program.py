"""The one folder of a program: weighed and emptied, whatever was done to it."""

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorpo.reward.sandbox import threads
from mirrorpo.reward.sandbox.program import MOST_FILES, empty, size


def test_a_folder_weighs_what_is_below_it(tmp_path: Path) -> None:
    assert size(str(tmp_path)) == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(100_000))
    assert 100_000 <= size(str(tmp_path)) < 150_000


def test_too_many_files_weigh_more_than_any_limit(tmp_path: Path) -> None:
    for index in range(MOST_FILES + 1):
        (tmp_path / str(index)).touch()
    assert size(str(tmp_path)) > 1 << 60


def test_a_link_weighs_nothing_of_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    assert size(str(tmp_path / "folder")) < 10_000


@pytest.fixture
def top() -> Iterator[Path]:
    # Not pytest's folder, which is removed by recursion.
    folder = Path(tempfile.mkdtemp())
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_everything_is_removed_however_deep_and_whatever_its_mode(top: Path) -> None:
    here = os.getcwd()
    os.chdir(top)
    try:
        # Deeper than a path may be long, and than Python may recurse.
        for _ in range(1200):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    (top / "locked").mkdir()
    (top / "locked" / "inner").mkdir(mode=0)
    (top / "locked").chmod(0)
    (top / "\n0").touch()
    empty(str(top))
    assert list(top.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    empty(str(tmp_path / "folder"))
    assert (tmp_path / "kept" / "file").read_text() == "x"


PROGRAM = 7
START, END = (1, 56), (2, 60)


def answered(
    monkeypatch: pytest.MonkeyPatch, flags: int, questions: list[tuple[int, int]], gone: int = -1
) -> list[bool]:
    """Which starts and ends of threads are allowed by a kernel that knows these flags.

    The question of this index is taken back before it is answered.
    """
    out: list[bool] = []
    queue = list(questions)

    def ioctl(listener: int, request: int, message: bytearray | bytes) -> None:
        if request == threads.RECEIVE:
            thread, call = queue.pop(0)
            assert isinstance(message, bytearray)
            message[:] = threads._QUESTION.pack(len(out), thread, 0, call, 0, 0, *[0] * 6)
        elif len(out) == gone:
            out.append(False)
            raise OSError(errno.ENOENT, "no such question")
        else:
            out.append(threads._ANSWER.unpack(message)[3] == threads.GO_ON)

    def syscall(number: int, operation: int, wanted: int, code: object) -> int:
        return 9 if wanted | flags == flags else -1

    monkeypatch.setattr(threads.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(threads.lock.libc, "syscall", syscall)
    monkeypatch.setattr(threads.os, "uname", lambda: type("", (), {"machine": "x86_64"}))
    counted = threads.Threads()
    assert counted.listener == (9 if flags else -1)
    for _ in questions:
        counted.answer(PROGRAM)
    return out


def test_threads_are_counted_by_what_is_sure_of_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = threads.NEW_LISTENER | threads.KILLABLE, threads.NEW_LISTENER
    full = [START] * threads.MOST
    assert answered(monkeypatch, newest, [*full, START]) == [True] * threads.MOST + [False]
    # One ends, another may start; where ends are not sure it may not.
    for flags, last in ((newest, True), (older, False)):
        assert answered(monkeypatch, flags, [*full, END, START])[-2:] == [True, last]
    # An end that was called off is none, and a program's first thread has to stay.
    assert answered(monkeypatch, newest, [*full, END, START], gone=threads.MOST)[-1] is False
    assert answered(monkeypatch, newest, [(PROGRAM, 60)]) == [False]
    answered(monkeypatch, 0, [])
