r"""math-verify behind a wall: LaTeX answers are compared in worker processes that can be killed.

Symbolic comparison has no bound on its time (10^{10} against \log 2 does not return) and may sit in
C, where no Python signal reaches it, so the only sure limit is to kill a process. A worker runs
`comparison.py`: `multiprocessing` would import the trainer, and torch with it, into each one.

An answer that uses up its processor time, or makes its worker crash, cannot be compared and is wrong: it
must not be a way out of a bad reward. Only a worker that was killed from outside, or waited without
computing, leaves an answer unverifiable.
"""

import functools
import json
import logging
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mirrorpo.reward.idle_workers import IdleWorkers
from mirrorpo.reward.math.comparison import READY, REPLIES, Comparison

# -P: the working folder must not shadow modules that math-verify imports.
_PROGRAM = (
    f"import sys; sys.path.append({str(Path(__file__).parents[3])!r}); "
    "from mirrorpo.reward.math.comparison import serve; serve()"
)
COMMAND = (sys.executable, "-P", "-c", _PROGRAM)
# How the kernel ends a worker whose processor time is up, and how it ends one that crashed in C.
BY_THE_ANSWER = (-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE)
START_S = 120.0  # importing sympy from a cold network disk is slow, and is no fault of the answer
PATIENCE = 4
END_S = 0.5  # from a worker's last byte to its exit status

log = logging.getLogger(__name__)


class Worker:
    """One process that compares answers, one at a time.

    Raises:
        RuntimeError: if the process cannot start; math-verify is then not installed, and a verifier
            that is not there must stop the run rather than leave every answer unverifiable.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        if self._byte(START_S) != READY:
            self.close()
            raise RuntimeError("the LaTeX verifier did not start; see stderr, and install math-verify")

    def ask(self, gold: str, answer: str, timeout_s: float) -> Comparison | None:
        """The comparison; None when it died or ran out of time, and it must be closed then."""
        assert self.process.stdin is not None
        # A raw pipe may take part of a long line; the process is idle here, so it reads the rest.
        line = memoryview(json.dumps([gold, answer, timeout_s]).encode() + b"\n")
        try:
            while line:
                line = line[self.process.stdin.write(line) :]
        except OSError:
            return None
        return REPLIES.get(self._reply(timeout_s) or b"")

    def ended_by_answer(self) -> bool:
        """Whether the process is gone, and what it compared ended it; waits a moment for its end."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(END_S) in BY_THE_ANSWER
        return False

    def close(self) -> None:
        """Kill the process and wait until it is gone."""
        with self.process:
            self.process.kill()

    def _reply(self, timeout_s: float) -> bytes | None:
        # The kernel ends a worker that computes for longer, however long that takes on a busy machine; the
        # clock ends one that does not compute.
        waited, used = 0, self._processor_ticks()
        while waited < PATIENCE:
            reply = self._byte(timeout_s)
            if reply is not None:
                return reply
            before, used = used, self._processor_ticks()
            waited = waited + 1 if used == before else 0
        return None

    def _processor_ticks(self) -> int:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    def _byte(self, timeout_s: float) -> bytes | None:
        # The next byte; empty when the process is gone, None when the time is up.
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        return self.process.stdout.read(1) if poller.poll(timeout_s * 1000) else None


class Pool:
    r"""Workers that judge (gold, answer) pairs with a hard limit of time on each.

    A worker is started when a pair first needs it, ended when it exceeds `timeout_s`, and replaced after that
    or after a crash. The pair it was judging is then "wrong" where the pair was the cause, and
    "unverifiable" where it was not. Comparisons come in the order of the pairs. Everything is closed at exit.

    Attributes:
        timeout_s: seconds of processor time that a comparison may take. A worker that uses none in
            `PATIENCE` times as many on the clock is ended too.
        command: what a worker runs; tests put other programs there.

    Example:
        >>> pool = Pool(workers=1, timeout_s=10.0)
        >>> pool([("x+1", "1+x"), ("x+1", "x"), (r"\frac{", "x")])
        ['right', 'wrong', 'bad_gold']
        >>> pool.close()
    """

    def __init__(self, workers: int, timeout_s: float, command: Sequence[str] = COMMAND) -> None:
        self.timeout_s = timeout_s
        self.command = command
        self._size = workers
        self._workers: IdleWorkers[Worker] = IdleWorkers([None] * workers)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """One comparison for each pair, in order."""
        with ThreadPoolExecutor(self._size, thread_name_prefix="verifier") as threads:
            return list(threads.map(self._judge, pairs))

    def close(self) -> None:
        """End every process, waiting for the pairs under judgement; the next call starts new ones."""
        self._workers.close()

    def _judge(self, pair: tuple[str, str]) -> Comparison:
        with self._workers.slot() as slot:
            if slot.worker is not None and slot.worker.process.poll() is not None:
                slot.close()
            worker = slot.worker = slot.worker or Worker(self.command)
            comparison = worker.ask(*pair, self.timeout_s)
            if comparison is None:
                comparison = "wrong" if worker.ended_by_answer() else "unverifiable"
                log.warning(
                    "verifier ended after %s s of processor or crashed, %s: gold %.80r, answer %.80r",
                    self.timeout_s,
                    comparison,
                    *pair,
                )
                slot.close()
            return comparison


@functools.cache
def shared_pool(workers: int, timeout_s: float) -> Pool:
    """The process-wide pool of these settings, so that a reward stays a frozen value."""
    return Pool(workers, timeout_s)
