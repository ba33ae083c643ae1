r"""math-verify behind a wall: LaTeX answers are compared in worker processes that can be killed.

Symbolic comparison has no bound on its time (10^{10} against \log 2 does not return) and may sit in
C, where no Python signal reaches it, so the only sure limit is to kill a process. A worker is
`comparison.py` run as a script: `multiprocessing` would import the trainer, and torch with it, into each one.
"""

import functools
import json
import logging
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mirrorpo.reward.idle_workers import IdleWorkers
from mirrorpo.reward.math import comparison as script
from mirrorpo.reward.math.comparison import READY, REPLIES, Comparison

# -P: the script's folder must not shadow modules that math-verify imports.
COMMAND = (sys.executable, "-P", script.__file__)
START_S = 120.0  # importing sympy from a cold network disk is slow, and is no fault of the answer

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
        return REPLIES.get(self._byte(timeout_s) or b"")

    def close(self) -> None:
        """Kill the process and wait until it is gone."""
        with self.process:
            self.process.kill()

    def _byte(self, timeout_s: float) -> bytes | None:
        # The next byte; empty when the process is gone, None when the time is up.
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        return self.process.stdout.read(1) if poller.poll(timeout_s * 1000) else None


class Pool:
    r"""Workers that judge (gold, answer) pairs with a hard limit of time on each.

    A worker is started when a pair first needs it, killed when it exceeds `timeout_s`, and replaced
    after that or after a crash; the pair it was judging is then "unverifiable". Comparisons come in the
    order of the pairs. Everything is closed at exit.

    Attributes:
        timeout_s: seconds a comparison may take before its worker is killed.
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
                log.warning(
                    "verifier killed after %s s or crashed on gold %.80r, answer %.80r", self.timeout_s, *pair
                )
                slot.close()
            return comparison or "unverifiable"


@functools.cache
def shared_pool(workers: int, timeout_s: float) -> Pool:
    """The process-wide pool of these settings, so that a reward stays a frozen value."""
    return Pool(workers, timeout_s)
