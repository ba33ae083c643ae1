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

from mirrorpo.reward.sandbox import worker
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


QUOTA, CHUNK = 1 << 20, 1 << 17
WRITES = f"""
import ctypes, mmap, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
kept = []
def write(name):
    with open(name, "wb") as file:
        file.write(bytes({CHUNK}))
def map(name):
    with open(name, "rb") as file:
        assert libc.mmap(None, 4096, 1, 2, file.fileno(), 0) not in (None, (1 << 64) - 1)
def f():
    step()
    time.sleep(0.05)
    return 1
"""
HOLD = "write('x')\n    kept.append(open('x', 'rb'))\n    "
HIDDEN = {
    "a folder that nobody may list": (
        "os.mkdir('d', 0o300)\ndef step():\n    kept.append(0)\n    write('d/%d' % len(kept))"
    ),
    "a path that is too long": (
        "for _ in range(30):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\n"
        "def step():\n    kept.append(0)\n    write(str(len(kept)))"
    ),
    "removed and open": f"def step():\n    {HOLD}os.unlink('x')",
    "renamed over and open": f"def step():\n    {HOLD}write('y')\n    os.rename('y', 'x')",
    "removed and mapped": "def step():\n    write('x')\n    map('x')\n    os.unlink('x')",
    "more mappings than can be read": "write('x')\ndef step():\n    for _ in range(3000): map('x')",
    "by another thread": (
        f"def work():\n    {HOLD}os.unlink('x')\n    kept.append(1)\n"
        "def step():\n    kept.append(0)\n    each = threading.Thread(target=work)\n    each.start()\n"
        "    each.join()\n    assert kept[-1] == 1"
    ),
}
# What an honest program writes, removes and maps, of as much in all.
TIDY = """
def step():
    import shutil, tempfile
    for _ in range(3):
        with tempfile.TemporaryFile() as file, tempfile.TemporaryDirectory() as folder:
            file.write(bytes(1 << 16))
            shutil.copyfile("kept", os.path.join(folder, "copy"))
            with mmap.mmap(file.fileno(), 4096) as mapped, mmap.mmap(-1, 1 << 16) as shared:
                mapped[:4] = shared[:4]
write("kept")
"""


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_what_a_program_keeps_on_disk_is_counted_wherever_it_hides_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(kind)
    monkeypatch.setattr(worker, "FOLDER_BYTES", QUOTA)
    tests = ["assert f() == 1"] * 20
    sources = {name: WRITES + source for name, source in (*HIDDEN.items(), ("tidy", TIDY))}
    attacked = Worker(Bounds(cpu_s=5, wall_s=30.0, memory_mb=256), bubblewrap=kind == "bubblewrap")
    reports = attacked.run_all([task(source, *tests) for source in sources.values()])
    attacked.close()
    written = {name: report.outcomes.count("passed") for name, report in zip(sources, reports, strict=True)}
    assert written.pop("tidy") == len(tests), reports[-1]
    if kind == "landlock":
        full = ("killed", "more than 1000 files, or too much on disk")
        assert {(report.outcomes[-1], report.refused) for report in reports[:-1]} == {full}
    else:
        # There the folder itself is limited; mappings take no room in it.
        del written["more mappings than can be read"]
        assert max(written.values()) <= QUOTA // CHUNK, written


ORPHANS = """
import ctypes, os, sys, time
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask, Worker
# Whoever is orphaned comes here and is waited for by nobody, as in many containers.
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for test in ("import os; os.kill(os.getpid(), 9)", %r):
    worker = Worker(Bounds(cpu_s=1, wall_s=0.3, memory_mb=256), bubblewrap=sys.argv[1] == "bubblewrap")
    task = ProgramTask(source="", setup="", prelude="", tests=[test], names=[])
    print(worker.run(task), worker.breakage())
    worker.close()
time.sleep(0.2)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_a_worker_that_breaks_leaves_no_zombies(kind: str) -> None:
    needs(kind)
    command = [sys.executable, "-c", ORPHANS % STUCK, kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["None ended", "None silent", "no child"]


HONEST_OF_MANY = {
    "threads": (
        "import threading\ndef f():\n    out = []\n"
        "    many = [threading.Thread(target=out.append, args=(n,)) for n in range(20)]\n"
        "    for each in many: each.start()\n    for each in many: each.join()\n    return max(out) - 18"
    ),
    "one thread after another": (
        "import threading\ndef f():\n    for _ in range(100):\n        each = threading.Thread(target=int)\n"
        "        each.start()\n        each.join()\n    return 1"
    ),
    "a pool": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f():\n"
        "    with ThreadPoolExecutor(32) as pool: return sum(pool.map(int, ['1'] + ['0'] * 99))"
    ),
    "a deep stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def deep(n): return n and deep(n - 1)\ndef f():\n    out = []\n"
        "    each = threading.Thread(target=lambda: out.append(deep(50_000)))\n    each.start()\n"
        "    each.join()\n    return 1 + out[0]"
    ),
    "a copy": (
        "import shutil\ndef f():\n    with open('a', 'w') as file: file.write('1')\n"
        "    shutil.copyfile('a', 'b')\n    return int(open('b').read())"
    ),
}


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_threads_of_honest_programs_run(kind: str, sandboxes: Callable[[str], Sandbox]) -> None:
    reports = sandboxes(kind)([task(source, "assert f() == 1") for source in HONEST_OF_MANY.values()])
    outcomes = {name: report.outcomes[0] for name, report in zip(HONEST_OF_MANY, reports, strict=True)}
    assert outcomes == dict.fromkeys(HONEST_OF_MANY, "passed"), reports


TRAINER = """
import json, sys
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask, Worker
worker = Worker(Bounds(cpu_s=60, wall_s=60.0, memory_mb=256), bubblewrap=False)
print(json.dumps({"keeper": worker.process.pid, "folder": worker.folder}), flush=True)
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
        keeper, folder = started["keeper"], Path(started["folder"])
        time.sleep(0.5)  # until the judge is stuck
        processes = [keeper, *below(keeper)]
        trainer.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while (left := living(processes)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert len(processes) == 5 and left == []
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
