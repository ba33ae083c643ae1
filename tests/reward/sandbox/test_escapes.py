"""No program of `escapes.py` earns a test, outlives its sample, leaves something behind, or changes its
neighbour's verdict.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
from escapes import ESCAPES, filled
from kernel import needs

from mirrorpo.reward.sandbox.worker import NEWEST_LANDLOCK, Bounds, ProgramReport, ProgramTask, Worker

Pair: TypeAlias = tuple[Worker, Worker, Mapping[str, int]]
BOUNDS = Bounds(cpu_s=1, wall_s=1.0, memory_mb=256)
TESTS = ("assert f(3) == 10", "assert f(4) == 17")
SECRET = "a secret of the trainer's environment"
MARKS = (Path("/tmp/mirrorpo-escaped"), Path("/dev/shm/mirrorpo-escaped"))


def task(source: str) -> ProgramTask:
    return ProgramTask(source=source, setup="", prelude="", tests=TESTS, names=["f"])


HONEST = task("def f(x): return x * x + 1")


def descendants(pid: int) -> list[int]:
    # A process may end while it is looked at.
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(one for child in children for one in descendants(child))]


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def held(worker: Worker) -> dict[str, int]:
    """How many processes a worker has, and how many descriptors they have open together."""
    processes = [worker.process.pid, *descendants(worker.process.pid)]
    return {"processes": len(processes), "descriptors": sum(map(descriptors, processes))}


def settled(worker: Worker, before: Mapping[str, int]) -> bool:
    """Whether a worker comes back to what it held; the next program's process takes a moment to be made."""
    end = time.monotonic() + 2
    while held(worker) != before and time.monotonic() < end:
        time.sleep(0.005)
    return held(worker) == before


# What the clock ends takes as long as the clock gives: in one kind of worker only.
ONCE = [
    name
    for name in ESCAPES
    if any(word in name for word in ("endless", "flood", "sleep", "catch the end", "never answer"))
]
CASES = [
    (kind, name)
    for kind in ("bubblewrap", "landlock")
    for name in ESCAPES
    if kind == "bubblewrap" or name not in ONCE
]
# As an older kernel has it.
OLDER = [f"landlock {version}" for version in range(1, 8)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, object]]:
    """What there is to lose; there before any worker is."""
    folder = tmp_path_factory.mktemp("host")
    canary = folder / "canary"
    canary.write_text("alive")
    os.environ["MIRRORPO_TEST_SECRET"] = SECRET
    abstract = f"\0mirrorpo-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as other,
    ):
        for listener, name in ((unix, str(folder / "unix")), (other, abstract)):
            listener.bind(name)
            listener.listen()
        yield {
            "trainer": os.getpid(),
            "port": server.getsockname()[1],
            "unix": str(folder / "unix"),
            "abstract": abstract,
            "canary": str(canary),
            "folder": str(folder),
            "test_file": __file__,
            "secret": SECRET,
            "home": str(Path.home()),
        }
    del os.environ["MIRRORPO_TEST_SECRET"]


@pytest.fixture(scope="module")
def pairs(host: Mapping[str, object]) -> Iterator[Callable[[str], Pair]]:
    """By kind, the worker that is attacked, its neighbour, and what it holds at rest."""
    made: dict[str, Pair] = {}

    def pair(kind: str) -> Pair:
        needs(kind.partition(" ")[0])
        if kind not in made:
            version = int(kind.partition(" ")[2] or NEWEST_LANDLOCK)
            attacked, neighbour = (
                Worker(BOUNDS, bubblewrap=kind == "bubblewrap", landlock=version) for _ in range(2)
            )
            assert not attacked.mechanism().ways_out
            time.sleep(0.2)  # until the next program's process is made
            made[kind] = (attacked, neighbour, held(attacked))
        return made[kind]

    yield pair
    for attacked, neighbour, _ in made.values():
        attacked.close()
        neighbour.close()


def test_the_corpus_is_as_large_as_was_promised() -> None:
    assert len(ESCAPES) >= 60


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_program_that_tries_something_else_earns_nothing_and_disturbs_nobody(
    kind: str, name: str, pairs: Callable[[str], Pair], host: Mapping[str, object]
) -> None:
    attack(kind, name, pairs, host)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OLDER)
def test_nor_does_it_under_an_older_version_of_landlock(
    kind: str, pairs: Callable[[str], Pair], host: Mapping[str, object]
) -> None:
    for name in ESCAPES:
        if name not in ONCE:
            attack(kind, name, pairs, host)


def judge_of(worker: Worker) -> int:
    """The process that has the tests; behind bubblewrap its number is another one inside."""
    if worker.bubblewrap:
        return worker.process.pid
    first = worker.process.pid
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[-1])


def attack(kind: str, name: str, pairs: Callable[[str], Pair], host: Mapping[str, object]) -> None:
    attacked, neighbour, before = pairs(kind)
    found: list[ProgramReport | None] = []
    beside = threading.Thread(target=lambda: found.extend(neighbour.run(HONEST) for _ in range(3)))
    beside.start()
    report = attacked.run(task(filled(ESCAPES[name], {**host, "worker": judge_of(attacked)})))
    beside.join()
    assert report is not None, f"{name}: the worker broke"
    assert "passed" not in report.outcomes, (name, report)
    for honest in (*found, attacked.run(HONEST)):
        assert honest is not None and list(honest.outcomes) == ["passed", "passed"], honest
    assert settled(attacked, before), (name, held(attacked), before)
    folder = Path(str(host["folder"]))
    assert (
        sorted(path.name for path in folder.iterdir()) == ["canary", "unix"]
        and (folder / "canary").read_text() == "alive"
    )
    assert not any(mark.exists() for mark in MARKS)
    assert attacked.bubblewrap or os.listdir(attacked.folder) == []


@pytest.mark.parametrize("name", ["read: tests from frames", "read: tests from the collector"])
def test_the_hunters_find_tests_where_there_are_some(name: str) -> None:
    # As evaluators commonly do: the program and its tests in one process.
    lines = (
        f"TESTS = {TESTS!r}",
        "there = {}",
        f"exec({ESCAPES[name]!r}, there)",
        "def run(test): exec(test, there)",
        "run(TESTS[0])",
    )
    script = "\n".join(lines)
    assert (
        subprocess.run([sys.executable, "-I", "-c", script], check=False, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_what_a_forger_passed_before_does_not_count(kind: str, pairs: Callable[[str], Pair]) -> None:
    source = "import os\ndef f(x):\n    if x == 4: os.write(4, b'passed' * 9)\n    return x * x + 1"
    report = pairs(kind)[0].run(task(source))
    assert report is not None and list(report.outcomes) == ["forged", "forged"]


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_a_test_that_catches_everything_does_not_hide_a_forgery(
    kind: str, pairs: Callable[[str], Pair]
) -> None:
    test = "try:\n    f(3)\nexcept BaseException:\n    pass"
    report = pairs(kind)[0].run(
        ProgramTask(
            source="import os\nos.write(4, b'passed' * 9)\ndef f(x): return 0",
            setup="",
            prelude="",
            tests=[test],
            names=["f"],
        )
    )
    assert report is not None and list(report.outcomes) == ["forged"]
