r"""math-verify behind a wall: LaTeX answers are compared in worker processes that can be killed.

Symbolic comparison has no bound on its time (10^{10} against \log 2 does not return) and may sit in
C, where no Python signal reaches it, so the only sure limit is to kill a process. A worker is this
file run as a script: `multiprocessing` would import the trainer, and torch with it, into each one.
It reads a line of JSON for each comparison and answers one byte, so a reply is never half there.
"""

import atexit
import functools
import json
import logging
import os
import queue
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

Comparison = Literal["right", "wrong", "bad_gold", "unverifiable"]

# -P: this file's folder must not shadow modules that math-verify imports.
COMMAND = (sys.executable, "-P", __file__)
START_S = 120.0  # importing sympy from a cold network disk is slow, and is no fault of the answer
MEMORY_BYTES = 4 << 30  # of address space: an answer must not take the node's memory before its time is up
READY = b"."
REPLIES: dict[bytes, Comparison] = {b"r": "right", b"w": "wrong", b"g": "bad_gold", b"u": "unverifiable"}

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
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        atexit.register(self.close)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """One comparison for each pair, in order."""
        with ThreadPoolExecutor(self._size, thread_name_prefix="verifier") as threads:
            return list(threads.map(self._judge, pairs))

    def close(self) -> None:
        """End every process, waiting for the pairs under judgement; the next call starts new ones."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.close()
            self._idle.put(None)

    def _judge(self, pair: tuple[str, str]) -> Comparison:
        worker = self._idle.get()
        try:
            if worker is not None and worker.process.poll() is not None:
                worker.close()
                worker = None
            worker = worker or Worker(self.command)
            comparison = worker.ask(*pair, self.timeout_s)
            if comparison is None:
                log.warning(
                    "verifier killed after %s s or crashed on gold %.80r, answer %.80r", self.timeout_s, *pair
                )
                worker.close()
                worker = None
            return comparison or "unverifiable"
        finally:
            self._idle.put(worker)


@functools.cache
def shared_pool(workers: int, timeout_s: float) -> Pool:
    """The process-wide pool of these settings, so that a reward stays a frozen value."""
    return Pool(workers, timeout_s)


def compare(gold: str, answer: str) -> Comparison:
    """math-verify's opinion, without any limit of time; only workers call it.

    An answer that does not parse is wrong; a comparison that raises is unverifiable. math-verify's own
    limits are off: they use the alarm, which is the worker's last resort.
    """
    # Imported here, so that only workers load it.
    import sympy
    from math_verify import verify

    golds, answers = _parse(gold), _parse(answer)
    # verify refuses golds without a value, and a prompt that can never be judged is a fault of the data.
    if not golds or golds[0].has(sympy.nan, sympy.zoo):
        return "bad_gold"
    if not answers:
        return "wrong"
    try:
        # Gold first: verify is not symmetric.
        return "right" if verify(golds, answers, timeout_seconds=0, raise_on_error=True) else "wrong"
    except Exception:
        return "unverifiable"


def _parse(latex: str) -> list:
    from math_verify import LatexExtractionConfig, parse

    # The parser only sees LaTeX between dollars, so plain numbers get them too; inner ones would end it
    # early.
    for mark in ("$", "\\%", "%", "\\(", "\\)"):
        latex = latex.replace(mark, "")
    latex = " ".join(latex.replace("\u2212", "-").split()).rstrip(" .")
    # Without the fallback, strings that did not parse are left out rather than compared letter by letter.
    return parse(f"${latex}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0)


def serve() -> None:
    """The worker's loop; ends with its standard input, and by itself on a comparison no parent will end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    logging.disable(logging.CRITICAL)
    replies = os.dup(1)
    os.dup2(2, 1)
    compare("1", "1")
    os.write(replies, READY)
    # ANTLR prints its complaints about answers; they must reach neither the replies nor the log.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    codes = {comparison: code for code, comparison in REPLIES.items()}
    for line in sys.stdin:
        gold, answer, timeout_s = json.loads(line)
        # The parent kills first. If it is gone, the kernel's alarm ends even a loop in C.
        signal.alarm(int(timeout_s) + 2)
        os.write(replies, codes[compare(gold, answer)])
        signal.alarm(0)


if __name__ == "__main__":
    serve()
