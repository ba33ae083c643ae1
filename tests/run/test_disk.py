"""A disk that is full, over quota, read-only or broken ends a run with one line, and the manifest says so."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from cli import SMALL, folder, manifest, succeeded, train
from safetensors.torch import save_file

from mirrorpo.run.checkpoint import save
from mirrorpo.run.disk import REFUSALS, RESERVE, aside, refusal, reserve, write_atomic, writing_to
from mirrorpo.run.errors import DiskError
from mirrorpo.run.folder import JsonLines, RunFolder, RunState


def mounted(*arguments: str | Path) -> bool:
    return shutil.which("mount") is not None and _mounts(arguments)


def _mounts(arguments: Sequence[str | Path]) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", path):
        pytest.skip("NOT TESTED: full and read-only disks; no file system can be mounted here (root, mount)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leave no block free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


LARGE = {"weights": torch.zeros(2_000_000)}
WRITES: dict[str, Callable[[Path], object]] = {
    "a manifest": lambda disk: RunFolder(disk / "run").update_manifest(state=RunState.RUNNING),
    "a row": lambda disk: JsonLines(disk / "run" / "metrics.jsonl").append({"step": 1}),
    "a checkpoint": lambda disk: save(disk / "run" / "checkpoints", 1, LARGE, keep=1),
    "a policy": lambda disk: save_file(LARGE, disk / "run" / "policy.safetensors"),
}


def attempt(write: Callable[[Path], object], disk: Path) -> str:
    """What is said of a write that is refused."""
    with pytest.raises(DiskError) as refused, writing_to(disk / "run"):
        write(disk)
    return str(refused.value)


def test_on_a_full_disk_every_write_says_the_same_in_one_line_and_the_old_file_stays(disk: Path) -> None:
    run = RunFolder(disk / "run")
    run.update_manifest(state=RunState.PLANNED)
    fill(disk)
    for name, write in WRITES.items():
        text = attempt(write, disk)
        assert text == f"out: no space left, {disk}/run, resume with the same command", (name, text)
    assert run.manifest() == {"state": "planned"}


def test_on_a_read_only_disk_too(disk: Path) -> None:
    (disk / "run" / "checkpoints").mkdir(parents=True)
    assert mounted("-o", "remount,ro", disk)
    for name, write in WRITES.items():
        text = attempt(write, disk)
        assert text == f"out: read-only file system, {disk}/run, resume with the same command", (name, text)


def test_a_limit_on_the_size_of_files_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        assert "file too large" in attempt(WRITES["a checkpoint"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_disk_refuses_is_known_in_every_form_that_it_takes() -> None:
    for number, text in REFUSALS.items():
        wrapped = RuntimeError("unexpected pos 704 vs 598")
        wrapped.__context__ = OSError(number, os.strerror(number))
        forms = [
            OSError(number, os.strerror(number)),
            wrapped,
            RuntimeError(f"rank 1: OSError: [Errno {number}] {os.strerror(number)}"),
            Exception(f"I/O error: {os.strerror(number)} (os error {number})"),
        ]
        assert [refusal(form) for form in forms] == [text] * 4, number
    for other in (
        FileNotFoundError(errno.ENOENT, "no"),
        KeyError(28),
        RuntimeError("28"),
        PermissionError(13, "no"),
    ):
        assert refusal(other) is None, other
    with pytest.raises(KeyError), writing_to(Path("/nowhere")):
        raise KeyError(28)


def test_the_reserve_makes_room_for_the_manifest_and_goes_with_the_run(disk: Path) -> None:
    run = RunFolder(disk / "run")
    with run.locked():
        assert (run.path / RESERVE).stat().st_blocks * 512 >= 128 * 1024
        fill(disk)
        with pytest.raises(DiskError):
            run.update_manifest(state=RunState.FAILED)
        (run.path / RESERVE).unlink()
        run.update_manifest(state=RunState.FAILED)
    assert run.manifest() == {"state": "failed"} and not (run.path / RESERVE).exists()
    fill(disk)
    with pytest.raises(DiskError, match="no space left"), run.locked():
        pass
    with pytest.raises(KeyError), reserve(disk.parent):
        raise KeyError
    assert not (disk.parent / RESERVE).exists()


def test_names_that_are_taken_are_counted_on(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        free = aside(tmp_path / "metrics.jsonl", "damaged")
        write_atomic(free, "kept")
        names.append(free.name)
    assert names == ["metrics.damaged.jsonl", "metrics.damaged.2.jsonl", "metrics.damaged.3.jsonl"]


def test_a_run_that_fills_its_disk_says_so_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    # A checkpoint is 9.6 MB, and the next is written before the old one goes.
    assert mounted("-o", "remount,size=14m", disk)
    cell = (*SMALL, "keep_checkpoints=1", "eval_questions=0")
    full = train(*cell, f"out={disk}", cwd=tmp_path)
    run = folder(disk)
    line = f"out: no space left, {run}, resume with the same command"
    assert full.returncode == 1 and full.stderr.splitlines() == [f"error: {line}"], full.stderr
    assert (manifest(run)["state"], manifest(run)["error"]) == ("failed", line)
    assert mounted("-o", "remount,size=60m", disk)
    succeeded(train(*cell, f"out={disk}", cwd=tmp_path), said=["resuming after step 1 of 3"])
    assert manifest(run)["state"] == "done" and manifest(run)["error"] is None
