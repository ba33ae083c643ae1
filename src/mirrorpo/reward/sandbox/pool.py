"""Model-written programs, run where they can neither harm nor decide their own reward.

A worker (`judge`) is a bare interpreter with an empty environment: a judge that holds the tests, and a fork
server (`program`) that gives every program a process of its own. Where the machine has them, the worker
stands inside bubblewrap (mounts, network, process numbers), and each program behind Landlock and seccomp
(`lock`). What the machine has is measured when the sandbox starts, by a program that tries to get out, and
has a name (`Sandbox.mechanism`) for the run's manifest.
"""

import functools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from mirrorpo.reward.idle_workers import IdleWorkers
from mirrorpo.reward.sandbox.folder import sweep
from mirrorpo.reward.sandbox.worker import (
    NOBODY,
    Bounds,
    Breakage,
    Mechanism,
    Outcome,
    ProgramReport,
    ProgramTask,
    Worker,
)

Policy = Literal["required", "unsafe"]
TASKS_PER_WORKER = 4  # that one worker takes at a time
LONGEST_PROGRAM = 1_000_000  # characters; a longer one is not run

log = logging.getLogger(__name__)


class Sandbox:
    r"""Workers that run tasks side by side; reports come in the order of the tasks.

    Attributes:
        mechanism: what they are locked with.

    Raises:
        ValueError: if nothing on this machine isolates programs and the policy is not "unsafe".

    Example:
        >>> sandbox = Sandbox(workers=1, bounds=Bounds(cpu_s=2, wall_s=5.0, memory_mb=256), policy="required")
        >>> tests = ["assert double(2) == 4", "assert double('') == 0"]
        >>> source = "def double(x):\n    return x * 2"
        >>> task = ProgramTask(source=source, setup="", prelude="", tests=tests, names=["double"])
        >>> [list(report.outcomes) for report in sandbox([task])]
        [['passed', 'failed']]
        >>> sandbox.close()
    """

    def __init__(self, workers: int, bounds: Bounds, policy: Policy) -> None:
        self.bounds = bounds
        sweep({os.geteuid(), NOBODY} if os.geteuid() == 0 else {os.geteuid()})
        # Kept: a worker's bubblewrap dies with the thread that started it, not only with the process.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        first, self.mechanism = self._threads.submit(_strongest, bounds, policy).result()
        self._workers: IdleWorkers[Worker] = IdleWorkers([first, *[None] * (workers - 1)])

    def __call__(self, tasks: Sequence[ProgramTask]) -> list[ProgramReport]:
        """One report for each task, in order."""
        sized = [task for task in tasks if len(task.source) <= LONGEST_PROGRAM]
        starts = range(0, len(sized), TASKS_PER_WORKER)
        chunks = [sized[start : start + TASKS_PER_WORKER] for start in starts]
        reports = (report for chunk in self._threads.map(self._run, chunks) for report in chunk)
        return [next(reports) if len(task.source) <= LONGEST_PROGRAM else _too_long(task) for task in tasks]

    def close(self) -> None:
        """End every worker, waiting for the tasks that run; the next call starts new ones."""
        self._workers.close()

    def _run(self, tasks: Sequence[ProgramTask]) -> list[ProgramReport]:
        reports: list[ProgramReport] = []
        failures = 0
        with self._workers.slot() as slot:
            while len(reports) < len(tasks):
                worker = slot.worker = slot.worker or Worker(
                    self.bounds,
                    bubblewrap=self.mechanism.bubblewrap,
                    landlock=self.mechanism.landlock,
                    seccomp=self.mechanism.seccomp,
                )
                before = len(reports)
                reports += worker.run_all(tasks[before:])
                if len(reports) == len(tasks):
                    break
                broken, breakage = tasks[len(reports)], worker.breakage()
                log.warning(
                    "a sandbox worker broke on a program of %d characters (%s) and was replaced",
                    len(broken.source),
                    breakage,
                )
                slot.close()
                # What ran before may have broken it, unless it was busy with this one; else one that breaks
                # two, a fresh one the second time, is at fault.
                failures = 1 if len(reports) > before else failures + 1
                if failures == 2 or breakage == "spun out":
                    reports.append(_broken(broken, breakage))
                    failures = 0
        return reports


def _broken(task: ProgramTask, breakage: Breakage) -> ProgramReport:
    outcome: Outcome = "killed" if breakage == "ended" else "time_out"
    outcomes: list[Outcome] = [outcome] * len(task.tests)
    detail = f"its tests broke the worker ({breakage})"
    return ProgramReport(outcomes=outcomes, detail=detail, cpu_s=0.0, wall_s=0.0, broken=True)


def _too_long(task: ProgramTask) -> ProgramReport:
    outcomes: list[Outcome] = ["memory"] * len(task.tests)
    detail = f"a program of {len(task.source)} characters; {LONGEST_PROGRAM} are run"
    return ProgramReport(outcomes=outcomes, detail=detail, cpu_s=0.0, wall_s=0.0)


@functools.cache
def shared_sandbox(workers: int, bounds: Bounds, policy: Policy) -> Sandbox:
    """The process-wide sandbox of these settings, so that a reward stays a frozen value."""
    return Sandbox(workers, bounds, policy)


def _strongest(bounds: Bounds, policy: Policy) -> tuple[Worker, Mechanism]:
    tried: list[str] = []
    for bubblewrap in (True, False):
        try:
            worker = Worker(bounds, bubblewrap=bubblewrap)
            mechanism = worker.mechanism()
        except (OSError, RuntimeError) as error:
            tried.append(f"{'bubblewrap' if bubblewrap else 'no bubblewrap'}: {error}")
            continue
        if not mechanism.ways_out or (policy == "unsafe" and not bubblewrap):
            return worker, mechanism
        tried.append(str(mechanism))
        worker.close()
    raise ValueError(
        f"sandbox={policy}: nothing on this machine keeps model-written programs in ({'; '.join(tried)}). "
        "Landlock and seccomp (Linux 5.13) are enough, or bubblewrap and seccomp; sandbox=unsafe runs them "
        "all the same, with your rights"
    )
