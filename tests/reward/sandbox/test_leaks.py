"""Ten thousand hostile samples leave the sandbox and its trainer as they were."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import pytest
from escapes import ESCAPES, filled
from kernel import needs
from test_escapes import ONCE
from test_siege import HIDDEN, HOSTILE, WRITES, task

from mirrorpo.reward.sandbox.pool import Sandbox
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask

SAMPLES, ROUND = 10_000, 500
BOUNDS = Bounds(cpu_s=1, wall_s=1.0, memory_mb=256)
TESTS = ("assert f(3) == 10", "assert f(4) == 17")
HONEST = task("def f(x): return x * x + 1", *TESTS)
DEADLY = task("def f(): return 1", "import os\nos.kill(os.getpid(), 9)")
TICKS = 5  # of a hundred a second: this process's own
MEMORY_KB = 4096  # that all processes together may differ by: the allocator keeps a page here and there


def processes() -> list[int]:
    """This process and all below it."""
    left, pids = [os.getpid()], []
    while left:
        pids.append(left.pop())
        for thread in Path(f"/proc/{pids[-1]}/task").iterdir():
            left += map(int, (thread / "children").read_text().split())
    return pids


def field(pid: int, name: str) -> int:
    """A number of a process's status; 0 for a zombie, which has no memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def ticks(pids: list[int]) -> int:
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats)


def held() -> tuple[Mapping[str, int], int, int]:
    """What is there at rest, ticks of processor time in a second, and the memory of all processes in KB."""
    time.sleep(1)  # until the next programs' processes are made
    pids = processes()
    busy = ticks(pids)
    time.sleep(1)
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]
    folders = list(Path(tempfile.gettempdir()).glob("mirrorpo-sandbox-*"))
    counts = {
        "processes": len(pids),
        "zombies": states.count("Z"),
        "threads": sum(field(pid, "Threads") for pid in pids),
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        "folders": len(folders),
        "files": sum(len(os.listdir(folder)) for folder in folders),
    }
    return counts, ticks(pids) - busy, sum(field(pid, "RssAnon") for pid in pids)


def hostile() -> list[ProgramTask]:
    """Every kind of program that does not have to be ended by the clock."""
    nowhere = {name: "/nowhere" for name in ("canary", "folder", "unix", "test_file", "home", "secret")}
    places = {**nowhere, "worker": 1 << 22, "trainer": 1 << 22, "port": 9, "abstract": "\0mirrorpo-none"}
    tasks = [task(filled(source, places), *TESTS) for name, source in ESCAPES.items() if name not in ONCE]
    tasks += [task(source, test) for source, test, _ in HOSTILE.values()]
    return tasks + [task(WRITES + source, "assert f() == 2") for source in HIDDEN.values()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_ten_thousand_hostile_samples_leave_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(kind)
    if kind == "landlock":
        monkeypatch.setenv("PATH", "")
    # Other tests may run beside this one.
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    sandbox = Sandbox(2, BOUNDS, "required")
    endless = cycle(hostile())
    outcomes: Counter[str] = Counter()

    def attack(count: int) -> None:
        reports = sandbox([*islice(endless, count - 1), DEADLY])
        outcomes.update(report.outcomes[0] for report in reports)

    attack(ROUND)  # what is made once is there
    assert {report.outcomes[0] for report in sandbox([HONEST] * 16)} == {"passed"}
    before, ticks_before, memory_before = held()
    for _ in range(SAMPLES // ROUND):
        attack(ROUND)
    honest = [report.outcomes[0] for report in sandbox([HONEST] * 16)]
    after, ticks_after, memory_after = held()
    sandbox.close()
    os.rmdir(folder)
    print(f"\n{kind}: {SAMPLES} samples, {dict(outcomes)}")
    print(f"before {before}, {ticks_before} ticks a second, {memory_before} KB")
    print(f"after  {after}, {ticks_after} ticks a second, {memory_after} KB")
    assert honest == ["passed"] * 16 and "passed" not in outcomes
    assert after == before
    assert ticks_after <= ticks_before + TICKS and abs(memory_after - memory_before) < MEMORY_KB
