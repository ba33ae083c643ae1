"""math-verify in a process of its own, which can be killed.

This file is run as a script and imports nothing of the package, so that it starts without torch. It reads a
line of JSON for each comparison and answers one byte, so a reply is never half there.
"""

import json
import logging
import os
import resource
import signal
import sys
from typing import Literal

Comparison = Literal["right", "wrong", "bad_gold", "unverifiable"]

MEMORY_BYTES = 4 << 30  # of address space: an answer must not take the node's memory before its time is up
READY = b"."
REPLIES: dict[bytes, Comparison] = {b"r": "right", b"w": "wrong", b"g": "bad_gold", b"u": "unverifiable"}


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
