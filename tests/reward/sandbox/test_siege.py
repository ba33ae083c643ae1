"""No program stops, slows or outlives its judge; each has a neighbour beside it and an honest one behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel import needs

from mirrorpo.reward.sandbox.folder import FRESH_S, sweep
from mirrorpo.reward.sandbox.pool import LONGEST_PROGRAM, Sandbox
from mirrorpo.reward.sandbox.worker import Bounds, ProgramReport, ProgramTask, Worker

BOUNDS = Bounds(cpu_s=1, wall_s=2.0, memory_mb=256)


def task(source: str, *tests: str) -> ProgramTask:
    return ProgramTask(source=source, setup="", prelude="", tests=tests, names=["f"])


HONEST = task("def f(): return 1", "assert f() == 1")
SPINS = "assert sum(range(10**13)) == f()"
HASHES = "def f(): return [k * (2**61 - 1) for k in range(20000)]"
# Costs no processor time, and no signal handler ends it.
STUCK = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(60)"


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Callable[[str], Sandbox]]:
    made: dict[str, Sandbox] = {}

    def sandbox(kind: str) -> Sandbox:
        needs(kind)
        if kind not in made:
            path = os.environ["PATH"]
            os.environ["PATH"] = path if kind == "bubblewrap" else ""
            made[kind] = Sandbox(2, BOUNDS, "required")
            os.environ["PATH"] = path
        return made[kind]

    yield sandbox
    for sandbox_of_kind in made.values():
        sandbox_of_kind.close()


HOSTILE = {
    "a Decimal of many digits": (
        "from decimal import Decimal\ndef f(): return Decimal('1e999999999')",
        "assert int(f()) == 1",
        "exception",
    ),
    "a long range": ("def f(): return range(10**15)", "assert set(f()) == {1}", "exception"),
    "a fraction of large ints": (
        "from fractions import Fraction\ndef f(): return Fraction(3**400000, 2**400000)",
        "assert f() == 1",
        "exception",
    ),
    "a set of equal hashes": (
        "def f(): return {k * (2**61 - 1) for k in range(5000)}",
        "assert f() == {1}",
        "exception",
    ),
    "a count": ("def f(): return 10**12", "assert len(bytes(f())) == 1", "memory"),
    "an assertion without a text": ("def f(): return 2", "assert f() == 1, 10**5000", "failed"),
    "a test that exits": ("def f(): return 1", "raise SystemExit(f())", "failed"),
    "a test that is no Python": ("def f(): return 1", "assert f(", "failed"),
    "a name that is none": (
        "class E(Exception): pass\nE.__name__ = chr(0xd800)\ndef f(): raise E",
        "f()",
        "exception",
    ),
    "a question that nobody asks": (
        # Answers the judge's own question, whether it was loaded, by an error.
        "import json, os, struct, sys\nframe = sys._getframe()\nwhile 'calls' not in frame.f_locals:\n"
        "    frame = frame.f_back\nnonce, _ = frame.f_globals['wire'].take(3)\n"
        "body = nonce.encode() + json.dumps({'raised': 'E'}).encode()\n"
        "os.write(4, struct.pack('>I', len(body)) + body)",
        "pass",
        "exception",
    ),
    "an error that is no name": (
        "import json, os, struct, sys\ndef f():\n    frame = sys._getframe()\n"
        "    while 'nonce' not in frame.f_locals: frame = frame.f_back\n"
        "    body = frame.f_locals['nonce'].encode() + b'{\"syntax\": ' + b'[' * 900 + b']' * 900 + b'}'\n"
        "    os.write(4, struct.pack('>I', len(body)) + body)\n    os._exit(0)",
        "f()",
        "forged",
    ),
}


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_what_is_hostile_to_the_judge_earns_nothing_and_costs_nobody_else(
    kind: str, sandboxes: Callable[[str], Sandbox]
) -> None:
    sandbox = sandboxes(kind)
    tasks = [job for source, test, _ in HOSTILE.values() for job in (HONEST, task(source, test), HONEST)]
    reports = sandbox(tasks)
    outcomes = {name: report.outcomes[0] for name, report in zip(HOSTILE, reports[1::3], strict=True)}
    assert outcomes == {name: outcome for name, (*_, outcome) in HOSTILE.items()}
    honest = [*reports[::3], *reports[2::3], *sandbox([HONEST] * 4)]
    assert {report.outcomes[0] for report in honest} == {"passed"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_what_keeps_the_judge_busy_in_c_costs_its_processor_time_and_is_no_fault_of_the_problem(
    kind: str, sandboxes: Callable[[str], Sandbox]
) -> None:
    jobs = [task("def f(): return 1", SPINS), HONEST, task(HASHES, "assert set(f()) == {1}"), HONEST]
    busy, honest, hashes, other = sandboxes(kind)(jobs)
    for report in (busy, hashes):
        assert report.outcomes == ["time_out"] and report.broken, report
    assert honest.outcomes == other.outcomes == ["passed"]


def test_a_long_program_behind_one_that_keeps_the_judge_busy_stops_nobody() -> None:
    needs("landlock")
    sandbox = Sandbox(1, Bounds(cpu_s=60, wall_s=0.3, memory_mb=256), "required")
    long = task("# " + "x" * 300_000 + "\ndef f(): return 1", "assert f() == 1")
    began = time.monotonic()
    stuck, *others = sandbox([task("def f(): return 1", STUCK), long, HONEST])
    sandbox.close()
    assert stuck.outcomes == ["time_out"] and stuck.broken
    assert [report.outcomes for report in others] == [["passed"]] * 2
    # Twice its time and the grace; all the rest is a loaded machine's.
    assert time.monotonic() - began < 30


def test_programs_have_a_size_limit_of_their_own(sandboxes: Callable[[str], Sandbox]) -> None:
    at_most = task("#" * (LONGEST_PROGRAM - 18) + "\ndef f(): return 1", "assert f() == 1")
    longer = task("#" * (LONGEST_PROGRAM - 17) + "\ndef f(): return 1", "assert f() == 1", "assert f() == 1")
    reports: list[ProgramReport] = sandboxes("landlock")([HONEST, longer, at_most])
    assert [report.outcomes for report in reports] == [["passed"], ["memory", "memory"], ["passed"]]


TRAINER = """
import json, sys
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask, Worker
worker = Worker(Bounds(cpu_s=60, wall_s=60.0, memory_mb=256), bubblewrap=False)
print(json.dumps({"judge": worker.process.pid, "folder": worker.folder}), flush=True)
worker.run(ProgramTask(source="def f(): return 1", setup="", prelude="", tests=[%r], names=["f"]))
"""


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and " Z " not in state(pid)]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "


def below(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(deeper for child in children for deeper in below(child))]


def test_a_killed_trainer_leaves_no_process_and_its_folder_is_swept() -> None:
    needs("landlock")
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER % STUCK], stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        started = json.loads(trainer.stdout.readline())
        judge, folder = started["judge"], Path(started["folder"])
        time.sleep(0.5)  # until the judge is stuck
        processes = [judge, *below(judge)]
        trainer.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while (left := living(processes)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert len(processes) == 4 and left == []
    neighbour = Worker(BOUNDS, bubblewrap=False)
    users = {os.geteuid(), folder.stat().st_uid}
    sweep(users)
    assert folder.exists(), "one that is as young may be locked next"
    for path in (folder, Path(neighbour.folder)):
        os.utime(path, (0, time.time() - 2 * FRESH_S))
    sweep(users)
    assert not folder.exists() and Path(neighbour.folder).exists()
    report = neighbour.run(HONEST)
    neighbour.close()
    assert report is not None and report.outcomes == ["passed"] and not Path(neighbour.folder).exists()
