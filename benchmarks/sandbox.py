"""What a sample costs in the sandbox, against one `python` start for each.

    python benchmarks/sandbox.py                       # 10,000 samples, two workers
    python benchmarks/sandbox.py --samples 1000 --starts 100

Samples are small functions in groups of eight with three tests, as in training, a twentieth of them wrong,
another raising. `plain` is what evaluators of MBPP commonly do: the program and its asserts as one script,
one `python` for each, nothing kept in; `bare` is the same with `-I -S`, no site-packages. As many run at once
as there are workers. All are timed in turn, in rounds. At the end, nothing may be left: no process,
descriptor or file.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mirrorpo.reward.sandbox.pool import Sandbox
from mirrorpo.reward.sandbox.worker import Bounds, ProgramTask

GROUP = 8
BOUNDS = Bounds(cpu_s=5, wall_s=15.0, memory_mb=512)


def sample(index: int) -> ProgramTask:
    """A function that is right, wrong, or raises; eight in a row are for one problem."""
    problem = index // GROUP
    right = f"return sum([x] * {index % 50}) + x * {problem - index % 50} + 1"
    body = {0: f"return x * {problem} + 2", 1: "raise ValueError(x)"}.get(index % 20, right)
    tests = [f"assert work_{problem}({x}) == {x * problem + 1}" for x in (1, 2, 7)]
    return ProgramTask(
        source=f"def work_{problem}(x):\n    {body}  # {index}",
        setup="",
        prelude="",
        tests=tests,
        names=[f"work_{problem}"],
    )


def expected(index: int) -> list[str]:
    """Its outcomes."""
    return [{0: "failed", 1: "exception"}.get(index % 20, "passed")] * 3


def start(command: Sequence[str]) -> Callable[[ProgramTask], bool]:
    """One interpreter for one sample; only whether all tests passed."""

    def run(task: ProgramTask) -> bool:
        script = "\n".join([task.source, *task.tests]).encode()
        ended = subprocess.run(command, input=script, capture_output=True, timeout=60, check=False)
        return ended.returncode == 0

    return run


def _side_by_side(
    threads: ThreadPoolExecutor, run: Callable[[ProgramTask], bool], tasks: Sequence[ProgramTask]
) -> list[bool]:
    return list(threads.map(run, tasks))


def per_second(run: Callable[[Sequence[ProgramTask]], object], tasks: Sequence[ProgramTask]) -> float:
    """Samples a second."""
    began = time.perf_counter()
    run(tasks)
    return len(tasks) / (time.perf_counter() - began)


def descendants(pid: int) -> list[int]:
    """All processes below another."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(pid for child in children for pid in descendants(child))]


def left() -> dict[str, int]:
    """What this process has that could be left behind."""
    folders = len(list(Path(tempfile.gettempdir()).glob("mirrorpo-sandbox-*")))
    return {
        "processes": len(descendants(os.getpid())),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "folders": folders,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """What the rounds measured.

    Attributes:
        speeds: samples a second by kind, one a round.
        waits: milliseconds of each sample in the sandbox.
        outcomes: how often each outcome of a test came.
    """

    speeds: Mapping[str, list[float]]
    waits: list[float]
    outcomes: Counter[str]


def timed(sandbox: Sandbox, options: argparse.Namespace) -> Timings:
    """Time every kind in turn, in rounds.

    Raises:
        AssertionError: if the sandbox's outcomes are not those of the samples.
    """
    tasks = [sample(index) for index in range(options.samples)]
    kinds = {"bare": start([sys.executable, "-I", "-S", "-"]), "plain": start([sys.executable, "-"])}
    timings = Timings(
        speeds={"sandbox": [], **{name: [] for name in kinds}}, waits=[], outcomes=Counter[str]()
    )
    share, starts = options.samples // options.rounds, options.starts // options.rounds
    for turn in range(options.rounds):
        first = turn * share
        chunk = tasks[first : first + share]
        began = time.perf_counter()
        reports = sandbox(chunk)
        timings.speeds["sandbox"].append(len(chunk) / (time.perf_counter() - began))
        wrong = [
            task.names[0]
            for index, (task, report) in enumerate(zip(chunk, reports, strict=True), first)
            if list(report.outcomes) != expected(index)
        ]
        assert not wrong, f"unexpected outcomes: {wrong[:5]}"
        timings.waits.extend(report.wall_s * 1000 for report in reports)
        timings.outcomes.update(outcome for report in reports for outcome in report.outcomes)
        with ThreadPoolExecutor(options.workers) as threads:
            for name, run in kinds.items():
                some = chunk[:starts]
                timings.speeds[name].append(per_second(partial(_side_by_side, threads, run), some))
    return timings


def report(timings: Timings) -> None:
    """Print the ratios."""
    waits = sorted(timings.waits)
    print(f"samples: {len(waits)}, outcomes of their tests: {dict(timings.outcomes)}")
    print(
        f"latency: median {statistics.median(waits):.1f} ms, p99 {waits[int(0.99 * len(waits))]:.1f} ms, "
        f"longest {waits[-1]:.1f} ms"
    )
    for name, values in timings.speeds.items():
        ratio = statistics.median(a / b for a, b in zip(timings.speeds["sandbox"], values, strict=True))
        rounds = ", ".join(f"{value:.0f}" for value in values)
        print(
            f"{name:>8}: {statistics.median(values):7.1f} samples/s (rounds {rounds})  "
            f"sandbox is {ratio:.1f} times it"
        )


def main() -> None:
    """Time, report, and look whether anything was left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=400, help="interpreters started, of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    before = left()
    sandbox = Sandbox(options.workers, BOUNDS, "required")
    print(f"mechanism: {sandbox.mechanism}; {options.workers} workers, load {os.getloadavg()[0]:.1f}")
    timings = timed(sandbox, options)
    sandbox.close()
    report(timings)
    print(f"left: before {before}, after {left()}")
    assert left() == before, "something was left"


if __name__ == "__main__":
    main()
