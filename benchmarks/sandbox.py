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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    def run(job: ProgramTask) -> bool:
        script = "\n".join([job.source, *job.tests])
        return (
            subprocess.run(
                command, input=script.encode(), capture_output=True, timeout=60, check=False
            ).returncode
            == 0
        )

    return run


def per_second(run: Callable[[Sequence[ProgramTask]], object], jobs: Sequence[ProgramTask]) -> float:
    """Samples a second."""
    began = time.perf_counter()
    run(jobs)
    return len(jobs) / (time.perf_counter() - began)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(one for child in children for one in descendants(child))]


def left() -> dict[str, int]:
    """What this process has that could be left behind."""
    folders = len(list(Path(tempfile.gettempdir()).glob("mirrorpo-sandbox-*")))
    return {
        "processes": len(descendants(os.getpid())),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "folders": folders,
    }


def main() -> None:
    """Print the ratios."""
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
    jobs = [sample(index) for index in range(options.samples)]
    kinds = {"bare": start([sys.executable, "-I", "-S", "-"]), "plain": start([sys.executable, "-"])}
    speeds: dict[str, list[float]] = {"sandbox": [], **{name: [] for name in kinds}}
    waits: list[float] = []
    outcomes: Counter[str] = Counter()
    share, starts = options.samples // options.rounds, options.starts // options.rounds
    for turn in range(options.rounds):
        mine = jobs[turn * share : (turn + 1) * share]
        began = time.perf_counter()
        findings = sandbox(mine)
        speeds["sandbox"].append(len(mine) / (time.perf_counter() - began))
        wrong = [
            job.names[0]
            for job, finding, index in zip(mine, findings, range(turn * share, options.samples), strict=False)
            if list(finding.outcomes) != expected(index)
        ]
        assert not wrong, f"unexpected findings: {wrong[:5]}"
        waits += [finding.wall_s * 1000 for finding in findings]
        outcomes.update(outcome for finding in findings for outcome in finding.outcomes)
        with ThreadPoolExecutor(options.workers) as threads:
            for name, run in kinds.items():
                speeds[name].append(
                    per_second(
                        lambda some, run=run, threads=threads: list(threads.map(run, some)), mine[:starts]
                    )
                )
    sandbox.close()
    waits.sort()
    print(f"samples: {len(waits)}, outcomes of their tests: {dict(outcomes)}")
    print(
        f"latency: median {statistics.median(waits):.1f} ms, p99 {waits[int(0.99 * len(waits))]:.1f} ms, "
        f"longest {waits[-1]:.1f} ms"
    )
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(speeds["sandbox"], values, strict=True))
        print(
            f"{name:>8}: {statistics.median(values):7.1f} samples/s (rounds "
            f"{', '.join(f'{value:.0f}' for value in values)})  sandbox is {ratio:.1f} times it"
        )
    print(f"left: before {before}, after {left()}")
    assert left() == before, "something was left"


if __name__ == "__main__":
    main()
