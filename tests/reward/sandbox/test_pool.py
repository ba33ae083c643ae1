"""The pool: order, determinism, what is used where, what is refused, and that nothing is left."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from kernel import needs, needs_any

from mirrorpo.reward.sandbox.pool import Sandbox, shared_sandbox
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask, Worker

BOUNDS = Bounds(cpu_s=2, wall_s=5.0, memory_mb=256)


def task(source: str, *tests: str) -> ProgramTask:
    return ProgramTask(source=source, setup="", prelude="", tests=tests or ("assert f() == 1",), names=["f"])


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    needs_any()
    found = Sandbox(2, BOUNDS, "required")
    yield found
    found.close()


def test_reports_come_in_the_order_of_the_jobs(sandbox: Sandbox) -> None:
    # The first is by far the slowest.
    tasks = [
        task(
            f"import time\ntime.sleep({0.2 if n == 0 else 0})\ndef f(): return {n}",
            f"assert f() == {n}",
            "assert f() == 5",
        )
        for n in range(12)
    ]
    found = [list(report.outcomes) for report in sandbox(tasks)]
    assert found == [["passed", "passed" if n == 5 else "failed"] for n in range(12)]


def test_workers_agree_on_hashes_and_random_draws(sandbox: Sandbox) -> None:
    source = "import random\ndef f(): return list({'a', 'b', 'c', 'd'}), random.random(), hash('x')"
    assert len({report.detail for report in sandbox([task(source, "raise Exception(f())")] * 8)}) == 1


def test_a_worker_that_dies_costs_one_verdict_and_is_replaced(sandbox: Sandbox) -> None:
    # No program can do this; a test runs where the verdict is made, and can.
    good, deadly = task("def f(): return 1"), task("def f(): return 1", "import os\nos.kill(os.getpid(), 9)")
    reports = sandbox([good, deadly, good, good, good, good, deadly])
    outcomes = [report.outcomes[0] for report in reports]
    assert outcomes == ["passed", "killed", *["passed"] * 4, "killed"]
    assert [report.broken for report in reports] == [outcome == "killed" for outcome in outcomes]


def test_where_there_is_no_bubblewrap_the_kernels_own_locks_are_used(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    needs("landlock")
    monkeypatch.setenv("PATH", "")
    other = Sandbox(1, BOUNDS, "required")
    assert str(other.mechanism).startswith("landlock") and not other.mechanism.ways_out
    assert list(other([task("def f(): return 1")])[0].outcomes) == ["passed"]
    other.close()


def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker.__init__

    def init(
        self: Worker, bounds: Bounds, *, bubblewrap: bool, landlock: int = 99, seccomp: bool = True
    ) -> None:
        if bubblewrap:
            raise RuntimeError("there is no bwrap")
        made(self, bounds, bubblewrap=False, landlock=0, seccomp=False)

    monkeypatch.setattr(Worker, "__init__", init)


def test_where_nothing_isolates_model_written_code_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked(monkeypatch)
    with pytest.raises(
        ValueError,
        match=(
            r"sandbox=required: nothing on this machine keeps .*no bwrap.*open: .*network.*sandbox=unsafe "
            r""
            r""
            r"runs them all"
        ),
    ):
        Sandbox(1, BOUNDS, "required")


def test_unless_the_user_says_so_and_then_the_name_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked(monkeypatch)
    before = len(descendants(os.getpid()))
    unsafe = Sandbox(1, BOUNDS, "unsafe")
    assert "UNSAFE" in str(unsafe.mechanism) and "processes" in unsafe.mechanism.ways_out
    assert list(unsafe([task("def f(): return 1")])[0].outcomes) == ["passed"]
    # Even there no process outlives its sample.
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(60)\n    os._exit(0)\ndef f(): return 1"
    )
    unsafe([task(daemon), task("def f(): return 1")])
    time.sleep(0.2)
    # The keeper, the judge, the fork server, the next program and the one after it.
    assert len(descendants(os.getpid())) - before == 5
    unsafe.close()


def descendants(pid: int) -> Sequence[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the two looks.
        with suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, (task / "children").read_text().split())
    return [*children, *(deeper for child in children for deeper in descendants(child))]


def test_nothing_is_left_behind(sandbox: Sandbox) -> None:
    sandbox.close()
    before = (
        len(descendants(os.getpid())),
        len(os.listdir("/proc/self/fd")),
        len(list(Path(tempfile.gettempdir()).glob("mirrorpo-sandbox-*"))),
    )
    sandbox([task("open('left', 'w').write('x')\ndef f(): return 1")] * 20)
    sandbox.close()
    after = (
        len(descendants(os.getpid())),
        len(os.listdir("/proc/self/fd")),
        len(list(Path(tempfile.gettempdir()).glob("mirrorpo-sandbox-*"))),
    )
    assert after == before


def test_equal_settings_share_one_sandbox(sandbox: Sandbox) -> None:
    assert shared_sandbox(1, BOUNDS, "required") is shared_sandbox(1, BOUNDS, "required")
    shared_sandbox(1, BOUNDS, "required").close()
