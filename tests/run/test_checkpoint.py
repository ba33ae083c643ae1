"""Checkpoints under damage and kills: complete or absent, and the newest whole one is found."""

import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path

from mirrorpo.core.protocols import Optimiser
from mirrorpo.core.seeds import global_state, restore_global_state, seed_globals
from mirrorpo.optim.adamw import AdamW
from mirrorpo.optim.muon import Muon
from mirrorpo.run.background import Background
from mirrorpo.run.checkpoint import newest, save
from mirrorpo.run.errors import DiskError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def saved(folder: Path, *steps: int, keep: int = 10) -> Path:
    """Checkpoints of these steps, the step in each."""
    for step in steps:
        save(folder, step, {"step": step, "weights": torch.full((100,), float(step))}, keep)
    return folder


def step_of(folder: Path) -> int | None:
    state = newest(folder)
    return None if state is None else state["step"]


# Round trip


def test_without_a_folder_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path / "checkpoints") is None


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) is None


def test_plain_data_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "step": 3,
        "hash": "abc",
        "none": None,
        "nested": {"list": [1, 2.5, {"deep": True}], "tuple": (1, 2)},
    }
    save(tmp_path, 3, state, keep=1)
    assert newest(tmp_path) == state


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool], ids=str
)
def test_tensors_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).mul(100).to(dtype)
    save(tmp_path, 1, {"weights": {"layer": tensor}}, keep=1)
    state = newest(tmp_path)
    assert state is not None
    back = state["weights"]["layer"]
    assert back.dtype == dtype and torch.equal(back, tensor)


def test_nan_and_infinity_come_back(tmp_path: Path) -> None:
    save(tmp_path, 1, {"weights": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])}, keep=1)
    state = newest(tmp_path)
    assert state is not None and str(state["weights"]) == "tensor([nan, inf, -inf, -0.])"


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))


def updated(net: torch.nn.Module, optimiser: Optimiser, step: int) -> list[Tensor]:
    inputs = torch.randint(5, (8,), generator=torch.Generator().manual_seed(step))
    net(inputs).square().sum().backward()
    optimiser.step(0.01)
    optimiser.zero_grad()
    return [parameter.detach().clone() for parameter in net.parameters()]


@pytest.mark.parametrize(
    "spec",
    [
        AdamW(betas=[0.9, 0.99], epsilon=1e-8, weight_decay=0.1),
        Muon(momentum=0.95, iterations=5, rest_factor=0.25),
    ],
    ids=["adamw", "muon"],
)
def test_an_optimiser_goes_on_to_the_bit(tmp_path: Path, spec: AdamW | Muon) -> None:
    net = network()
    optimiser = spec.build(net)
    for step in range(3):
        updated(net, optimiser, step)
    save(tmp_path, 3, {"weights": net.state_dict(), "optimiser": optimiser.state_dict()}, keep=1)
    uninterrupted = updated(net, optimiser, 3)

    state, again = newest(tmp_path), network()
    assert state is not None
    resumed = spec.build(again)
    again.load_state_dict(state["weights"])
    resumed.load_state_dict(state["optimiser"])
    assert all(torch.equal(a, b) for a, b in zip(updated(again, resumed, 3), uninterrupted, strict=True))


DRAWS: dict[str, Callable[[], Any]] = {
    "python": random.random,
    "python normal": lambda: random.gauss(0, 1),
    "numpy": lambda: float(np.random.rand()),
    "numpy normal": lambda: float(np.random.randn()),
    "torch": lambda: torch.rand(()).item(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_random_stream_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    draw = DRAWS[name]
    seed_globals(0)
    # An odd number of normal draws leaves one in the generator's pocket, and that is state too.
    draw()
    save(tmp_path, 1, {"random": global_state()}, keep=1)
    uninterrupted = [draw() for _ in range(5)]
    seed_globals(1)
    state = newest(tmp_path)
    assert state is not None
    restore_global_state(state["random"])
    assert [draw() for _ in range(5)] == uninterrupted


# Which one


def test_the_newest_is_the_one_of_the_last_step(tmp_path: Path) -> None:
    assert step_of(saved(tmp_path, 9, 10, 100)) == 100


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    saved(tmp_path, 10, 20, 30, 40, keep=keep)
    assert names(tmp_path) == ["step_000010", "step_000020", "step_000030", "step_000040"][-keep:]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        save(tmp_path, 5, {"text": text}, keep=2)
    assert newest(tmp_path) == {"text": "new"} and names(tmp_path) == ["step_000005"]


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def shorten(path: Path, size: int) -> None:
    os.truncate(path, size)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "state empty": lambda path: shorten(path / "state.pt", 0),
    "state without its last byte": lambda path: shorten(
        path / "state.pt", (path / "state.pt").stat().st_size - 1
    ),
    "state longer": lambda path: (path / "state.pt").write_bytes((path / "state.pt").read_bytes() + b"\0"),
    "first bit of state": lambda path: flip_bit(path / "state.pt", 0),
    "a bit in the middle of state": lambda path: flip_bit(
        path / "state.pt", (path / "state.pt").stat().st_size // 2
    ),
    "last bit of state": lambda path: flip_bit(path / "state.pt", -1),
    "state gone": lambda path: (path / "state.pt").unlink(),
    "digest gone": lambda path: (path / "sha256").unlink(),
    "digest empty": lambda path: shorten(path / "sha256", 0),
    "a bit of the digest": lambda path: flip_bit(path / "sha256", 5),
    "both gone": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_is_passed_over_with_a_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 10, 20)
    DAMAGE[kind](tmp_path / "step_000020")
    assert step_of(tmp_path) == 10
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint {tmp_path}/step_000020 is damaged; going on from the one before"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_digest_that_is_no_text_is_damage_too(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    (tmp_path / "step_000020" / "sha256").write_bytes(b"\xff" * 65)
    assert step_of(tmp_path) == 10


def test_a_strange_file_beside_what_was_saved_is_no_damage(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "step_000002" / ".nfs0001").write_text("open elsewhere")
    (tmp_path / "step_000002" / "notes").mkdir()
    assert step_of(tmp_path) == 2


def test_an_old_one_that_cannot_be_removed_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1)
    monkeypatch.setattr(
        os, "rmdir", lambda *words, **named: (_ for _ in ()).throw(OSError("Directory not empty"))
    )
    saved(tmp_path, 2, keep=1)
    assert step_of(tmp_path) == 2 and "step_000001 cannot be removed" in caplog.text


def test_an_older_damaged_one_does_not_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 10, 20)
    flip_bit(tmp_path / "step_000010" / "state.pt", 100)
    assert step_of(tmp_path) == 20 and not caplog.records


def test_when_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    for path in tmp_path.iterdir():
        flip_bit(path / "state.pt", 100)
    assert newest(tmp_path) is None


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    shorten(tmp_path / "step_000020" / "state.pt", 50)
    assert step_of(saved(tmp_path, 20)) == 20


def test_what_was_just_saved_is_kept_although_a_later_one_lies_damaged(tmp_path: Path) -> None:
    saved(tmp_path, 30)
    shorten(tmp_path / "step_000030" / "state.pt", 50)
    assert step_of(saved(tmp_path, 10, keep=1)) == 10


# Unfinished ones


def test_an_unfinished_folder_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    (tmp_path / "step_000020").rename(tmp_path / ".step_000020")
    assert step_of(tmp_path) == 10


def test_an_unfinished_folder_alone_is_none(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / "step_000010").rename(tmp_path / ".step_000010")
    assert newest(tmp_path) is None


def test_an_unfinished_folder_does_not_count_among_the_kept(tmp_path: Path) -> None:
    shutil.copytree(saved(tmp_path, 10) / "step_000010", tmp_path / ".step_000030")
    assert step_of(saved(tmp_path, 20, keep=1)) == 20


def test_an_unfinished_folder_of_the_same_step_is_no_hindrance(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / ".step_000020").mkdir()
    (tmp_path / ".step_000020" / "state.pt").write_bytes(b"half")
    assert step_of(saved(tmp_path, 20)) == 20 and names(tmp_path) == ["step_000010", "step_000020"]


def test_content_is_on_disk_before_the_folder_has_its_name_and_older_ones_go_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 10)
    calls: list[str] = []
    rename, rmtree = Path.rename, shutil.rmtree

    def synced(handle: int) -> None:
        calls.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def renamed(path: Path, to: Path) -> Path:
        calls.append(f"rename to {to.name}")
        return rename(path, to)

    def removed(path: Path, **options: Any) -> None:
        calls.extend([f"remove {path.name}"] if path.exists() else [])
        rmtree(path, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    saved(tmp_path, 20, keep=1)
    digest = next(call for call in calls if "sha256" in call)
    assert calls == [
        "sync state.pt",
        digest,
        "sync .step_000020",
        "rename to step_000020",
        f"sync {tmp_path.name}",
        "remove step_000010",
    ]


# In the background


class Later(Background):
    """Work that is done when somebody waits for it."""

    def start(self, work: Callable[[], None]) -> None:
        self.wait()
        self.work: Callable[[], None] | None = work

    def wait(self) -> None:
        work, self.work = getattr(self, "work", None), None
        if work:
            work()


def test_what_is_written_in_the_background_is_the_state_and_the_records_of_the_step(tmp_path: Path) -> None:
    net, background = network(), Later()
    optimiser = AdamW(betas=[0.9, 0.99], epsilon=1e-8, weight_decay=0.1).build(net)
    updated(net, optimiser, 0)
    rows = {"rows": 1}
    for name, later in (("now", None), ("later", background)):
        state = {"weights": net.state_dict(), "optimiser": optimiser.state_dict(), "random": global_state()}
        save(tmp_path / name, 1, state, keep=1, records=lambda: dict(rows), background=later)
    assert names(tmp_path / "later") == [".step_000001"] and newest(tmp_path / "later") is None
    updated(net, optimiser, 1)
    torch.rand(())
    rows["rows"] = 2
    background.wait()
    now, later = (tmp_path / name / "step_000001" for name in ("now", "later"))
    assert [path.name for path in sorted(later.iterdir())] == ["records.json", "sha256", "state.pt"]
    assert (later / "records.json").read_bytes() == (now / "records.json").read_bytes()
    leaves = [tree_flatten_with_path(newest(path.parent))[0] for path in (now, later)]
    for (key, value), (other_key, other) in zip(*leaves, strict=True):
        assert key == other_key and (
            torch.equal(value, other) if isinstance(value, Tensor) else value == other
        )


def test_a_disk_that_is_full_says_so_where_the_background_is_looked_at(tmp_path: Path) -> None:
    background = Background()
    saved(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, before[1]))
    try:
        save(tmp_path, 2, {"weights": torch.zeros(10_000)}, keep=1, background=background)
        with pytest.raises(DiskError, match=r"out: file too large, .*, resume with the same command"):
            background.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert step_of(tmp_path) == 1


# Kills

# One process imports torch once and forks a saver for every round; a saver tells each save that is done.
KILLS = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    import torch
    from mirrorpo.run.background import Background
    from mirrorpo.run.checkpoint import newest, save

    folder, rng = Path(sys.argv[1]), random.Random(0)
    torch.set_num_threads(1)

    def save_for_ever(step, done, background):
        os.write(done, b"\\n")
        weights = torch.zeros(50_000)
        while True:
            step += 1
            state = {"step": step, "weights": weights.fill_(step)}
            save(folder, step, state, keep=2, background=background)
            if background:
                # The run goes on.
                weights.fill_(-1)
                background.wait()
            os.write(done, b"%d\\n" % step)

    save(folder, 0, {"step": 0, "weights": torch.zeros(50_000)}, keep=2)
    for turn in range(20):
        start = newest(folder)["step"]
        told, done = os.pipe()
        saver = os.fork()
        if saver == 0:
            save_for_ever(start, done, Background() if turn % 2 else None)
        os.close(done)
        os.read(told, 1)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(saver, signal.SIGKILL)
        _, status = os.waitpid(saver, 0)
        with os.fdopen(told) as lines:
            last = [int(line) for line in lines.read().splitlines() if line]
        state = newest(folder)
        print(json.dumps({
            "signal": os.WTERMSIG(status), "start": start, "completed": max(last, default=start),
            "newest": state["step"], "whole": bool((state["weights"] == state["step"]).all()),
            "unfinished": len(list(folder.glob(".step_*"))),
        }))
"""


def test_a_kill_at_any_instant_of_saving_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLS), str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    rounds = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["signal"] for row in rounds] == [9] * 20
    assert all(row["whole"] for row in rounds)
    # What save() returned from is there; a save that was killed after its rename may be there too.
    assert all(row["newest"] - row["completed"] in (0, 1) for row in rounds), rounds
    assert "damaged" not in result.stderr
    # Otherwise the kills fell between saves and showed nothing.
    assert any(row["unfinished"] for row in rounds)
