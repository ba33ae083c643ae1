"""Processes forked from one that has imported torch are what new ones would be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import SMALL, command, environment, folder, folders, manifest, succeeded, train_in_new_python

from mirrorpo.launch.fork_server import OPTION
from mirrorpo.launch.forked import ForkedCell, ForkServer
from mirrorpo.launch.program import is_launch

# A launch as far as its process goes: it says what it is, and then does as it is told.
SCRIPT = """
import json, os, signal, sys
before = sorted(os.listdir("/proc/self/fd"))
new = "torch" not in sys.modules
from mirrorpo.launch import fork_server
fork_server.NEEDED = ("torch", "changing")
if (channel := fork_server.channel_in(sys.argv[1:])) is not None:
    print("printed at the import", file=sys.stderr, flush=True)
    sys.argv[1:] = fork_server.serve(channel)
    new = False
line = lambda file, word: next(row for row in open(file) if row.startswith(word))
import torch
print(json.dumps({
    "argv": sys.argv,
    "command line": [
        word for word in open("/proc/self/cmdline", errors="replace").read().split("\\0") if word
    ],
    "environment": dict(os.environ), "cwd": os.getcwd(), "parent": os.getppid(), "group": os.getpgrp(),
    "descriptors": len(os.listdir("/proc/self/fd")), "buffered": not sys.stdout.line_buffering,
    "signals": [line("/proc/self/status", word).split()[1] for word in ("SigBlk", "SigIgn", "SigCgt")],
    "threads": torch.get_num_threads(), "running": len(os.listdir("/proc/self/task")), "name": __name__,
    "cuda": [torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork()],
}), flush=True)
print(json.dumps({"new": new, "seed": torch.initial_seed(), "pid": os.getpid()}), flush=True)
print("error: told", file=sys.stderr, flush=True)
if sys.argv[1] == "wait":
    signal.pause()
sys.exit(int(sys.argv[2]))
"""


class Cells:
    """A server and the cells that it has started."""

    def __init__(self, server: ForkServer) -> None:
        self.server, self.started = server, []

    def start(self, *arguments: str, **extra: str) -> tuple[ForkedCell, Path]:
        out = Path(f"out{len(self.started)}")
        with out.open("w") as file:
            cell = self.server.start(arguments, environment(**extra), file.fileno())
        assert cell is not None
        self.started.append(cell)
        return cell, out


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cells]:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "changing.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    cells = Cells(ForkServer.begun(sys.argv, room=40))
    yield cells
    cells.server.close()
    for cell in cells.started:
        cell.stderr.close()


def facts(text: str) -> tuple[dict, dict]:
    first, second = map(json.loads, text.splitlines())
    return first, second


def test_a_forked_process_is_what_a_new_one_is_and_ends_as_it_would(cells: Cells) -> None:
    arguments = ("go", "3", "name=\udcff ü")
    cell, out = cells.start(*arguments, CUDA_VISIBLE_DEVICES="5")
    printed, status = cell.stderr.read(), cell.wait()
    fresh = subprocess.run(
        [sys.executable, sys.argv[0], *arguments],
        env=environment(CUDA_VISIBLE_DEVICES="5"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert status == 3, printed
    forked, how = facts(out.read_text())
    new, _ = facts(fresh.stdout)
    assert forked == new and status == fresh.returncode == 3 and not how["new"]
    assert forked["parent"] == os.getpid() and is_launch(forked["command line"])
    assert OPTION not in str(forked["command line"]) and forked["environment"]["CUDA_VISIBLE_DEVICES"] == "5"
    assert printed == "printed at the import\n" + fresh.stderr == "printed at the import\nerror: told\n"

    waiting, other = cells.start("wait", "0"), cells.start("wait", "0")
    lines = [cell.stderr.readline() + cell.stderr.readline() for cell, _ in (waiting, other)]
    assert all("told" in line for line in lines)
    seeds = {facts(file.read_text())[1]["seed"] for _, file in ((cell, out), waiting, other)}
    assert len(seeds) == 3
    waiting[0].terminate()
    assert waiting[0].wait() == -signal.SIGTERM
    waiting[0].terminate()

    # What has changed since is imported anew.
    Path("changing.py").write_text("a = 1")
    changed, out = cells.start("go", "0")
    assert changed.wait() == 0 and facts(out.read_text())[1]["new"]

    # The cells do not go with the server.
    cells.server._process.kill()
    cells.server._process.wait()
    assert cells.server.start(["go", "0"], environment(), 1) is None
    os.kill(facts(other[1].read_text())[1]["pid"], 0)
    other[0].terminate()
    assert other[0].wait() == -signal.SIGTERM


def test_a_server_ends_with_its_launcher_and_one_that_is_not_ready_when_it_is_abandoned(
    cells: Cells,
) -> None:
    cells.server.abandon()
    assert cells.server.start(["go", "0"], environment(), 1) is None
    assert cells.server._process.wait() == -signal.SIGTERM


def servers(cwd: Path) -> list[str]:
    """Processes that serve cells in a folder."""
    out = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == cwd and OPTION in (process / "cmdline").read_text():
                out.append(process.name)
        except OSError:
            # It has ended meanwhile.
            continue
    return out


@pytest.mark.slow
def test_the_cells_of_a_launcher_that_is_killed_end_with_the_numbers_that_each_has_alone(
    tmp_path: Path,
) -> None:
    cell = (*SMALL, "steps=4")
    grid = command("-m", "seed=0,1", *cell, "hydra.launcher.jobs=2", f"out={tmp_path / 'grid'}")
    launcher = subprocess.Popen(grid, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    end = time.monotonic() + 250
    while time.monotonic() < end and len(list((tmp_path / "grid").rglob("metrics.jsonl"))) < 2:
        time.sleep(0.1)
    runs = folders(tmp_path / "grid")
    assert len(servers(tmp_path)) == 1 and launcher.poll() is None
    launcher.kill()
    launcher.wait()
    while time.monotonic() < end and any(manifest(run)["state"] == "running" for run in runs):
        time.sleep(0.1)
    assert [manifest(run)["state"] for run in runs] == ["done", "done"] and not servers(tmp_path)
    succeeded(train_in_new_python("seed=1", *cell, f"out={tmp_path / 'alone'}", cwd=tmp_path))
    alone = (folder(tmp_path / "alone") / "metrics.jsonl").read_bytes()
    assert alone == (runs[1] / "metrics.jsonl").read_bytes()
