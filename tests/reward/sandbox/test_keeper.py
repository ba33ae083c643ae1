"""What the keeper sees of a process's files, and how it ends what is left; in a worker in `test_siege`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirrorpo.reward.sandbox import keeper

SIZE = 1 << 16


def test_removed_files_are_seen_as_long_as_they_are_open_or_mapped(tmp_path: Path) -> None:
    here, before = os.getpid(), keeper.held(os.getpid())
    path = tmp_path / "a name with (deleted)"
    path.write_bytes(bytes(SIZE))
    with path.open("rb"):
        assert keeper.held(here) == before, "it is still in its folder"
        path.unlink()
        assert SIZE <= keeper.held(here) - before < 2 * SIZE
    assert keeper.held(here) == before


MAPS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap(None, 4096, 3, 0x21, -1, 0)
with open("x", "wb") as file: file.write(bytes(4096))
with open("x", "rb") as file: libc.mmap(None, 4096, 1, 2, file.fileno(), 0)
os.unlink("x")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_removed_file_that_is_only_mapped_counts_as_large_and_what_ended_as_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-I", "-S", "-c", MAPS]
    with subprocess.Popen(command, cwd=tmp_path, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        # Memory that is shared is in no folder.
        assert keeper.held(process.pid) == keeper.FILE_BYTES
        with monkeypatch.context() as patch:
            patch.setattr(keeper, "LONGEST_MAPS", 100)
            assert keeper.held(process.pid) == keeper.FULL
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert keeper.held(process.pid) == 0, "a zombie holds nothing"
    assert keeper.held(process.pid) == 0


def test_a_process_that_cannot_be_looked_at_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(keeper.os, "listdir", refused)
    assert keeper.held(os.getpid()) == keeper.FULL


def test_children_are_ended_but_one(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom mirrorpo.reward.sandbox import keeper\n"
        "kept, *others = [os.fork() or time.sleep(60) for _ in range(3)]\nkeeper.end_children(spared=kept)\n"
        "left = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "print(os.waitpid(-1, os.WNOHANG), left == [str(kept)])\n"
        "keeper.end(kept)\nkeeper.end(kept)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "(0, 0) True\n"
