"""math-verify in a process of its own, which can be killed.

A worker imports this file and its sibling `evaluation.py`, and so starts without torch. It reads a line of
JSON for each comparison and answers one byte, so a reply is never half there. What a comparison costs is
counted in processor time, so that a busy machine changes no verdict.
"""

import json
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sympy import Basic

Comparison = Literal["right", "wrong", "bad_gold", "unverifiable"]

MEMORY_BYTES = 4 << 30  # of address space: an answer must not take the node's memory before its time is up
READY = b"."
REPLIES: dict[bytes, Comparison] = {b"r": "right", b"w": "wrong", b"g": "bad_gold"}


def compare(gold: str, answer: str) -> Comparison:
    """Whether an answer is the gold, without any limit of time; only workers call it.

    Two numbers are compared exactly or to many digits (`evaluation`), and so are two functions of the same
    variables. math-verify says of everything else, such as sets, intervals and equations, and its consent is
    checked again. An answer that does not parse, or cannot be compared, is wrong. math-verify's own limits
    are off: they reach no loop in C.
    """
    # Imported here, so that only workers load it.
    import sympy

    golds, answers = _parse(gold), _parse(answer)
    # verify refuses golds without a value, and a prompt that can never be judged is a fault of the data.
    if not golds or golds[0].has(sympy.nan, sympy.zoo):
        return "bad_gold"
    if not answers:
        return "wrong"
    try:
        return "right" if _equal(golds[0], answers[0]) else "wrong"
    except Exception:
        return "wrong"


def _equal(gold: "Basic", answer: "Basic") -> bool:
    from math_verify import verify
    from sympy import Float

    from mirrorpo.reward.math.evaluation import check_size, contradicts, same_value

    if gold == answer:
        return True
    rounded = gold.has(Float) or answer.has(Float)
    same = same_value(gold, answer)
    if same != "unknown" and not (rounded and same == "different"):
        return same == "same"
    for side in (gold, answer):
        check_size(side)
    # Gold first: verify is not symmetric.
    return verify([gold], [answer], timeout_seconds=0, raise_on_error=True) and not contradicts(gold, answer)


def _parse(latex: str) -> list["Basic"]:
    # The parser only sees LaTeX between dollars, so plain numbers get them too; inner ones would end it
    # early.
    for mark in ("$", "\\%", "%", "\\(", "\\)"):
        latex = latex.replace(mark, "")
    latex = " ".join(latex.replace("\u2212", "-").split()).rstrip(" .")
    parsed = _parsed(latex)
    # It reads one "plus or minus", and none of several solutions.
    return parsed or ("\\pm" in latex and _parsed(_both_signs(latex))) or []


def _parsed(latex: str) -> list["Basic"]:
    from math_verify import LatexExtractionConfig, parse

    # Without the fallback, strings that did not parse are left out rather than compared letter by letter.
    return parse(f"${latex}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0)


def _both_signs(latex: str) -> str:
    solutions = latex.split(",")
    if any(solution.count("\\pm") > 1 for solution in solutions):
        return latex
    return ", ".join(
        solution.replace("\\pm", sign)
        for solution in solutions
        for sign in (("+", "-") if "\\pm" in solution else ("",))
    )


def serve() -> None:
    """The worker's loop; ends with its input, and on a comparison that uses up its processor time."""
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
    # The kernel ends a comparison that has used its processor time, even in a loop in C.
    codes = {comparison: code for code, comparison in REPLIES.items()}
    for line in sys.stdin:
        gold, answer, timeout_s = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        os.write(replies, codes[compare(gold, answer)])
        signal.setitimer(signal.ITIMER_PROF, 0)
