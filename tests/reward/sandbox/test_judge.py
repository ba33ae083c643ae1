"""What a test sees of a program that stays in another process, and what its outcome is called."""

from collections.abc import Iterator, Sequence

import pytest
from kernel import LACKING, needs_any

from mirrorpo.reward.sandbox.judge import Raised, numpy_stand_in, raised
from mirrorpo.reward.sandbox.worker import Bounds, ProgramReport, ProgramTask, Worker

BOUNDS = Bounds(cpu_s=1, wall_s=1.0, memory_mb=256)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    needs_any()
    found = Worker(BOUNDS, bubblewrap=bool(LACKING["landlock"]))
    yield found
    found.close()


def run(
    worker: Worker,
    source: str,
    *tests: str,
    names: Sequence[str] = ("f",),
    setup: str = "",
    prelude: str = "",
) -> ProgramReport:
    report = worker.run(ProgramTask(source=source, setup=setup, prelude=prelude, tests=tests, names=names))
    assert report is not None
    return report


def outcomes(
    worker: Worker,
    source: str,
    *tests: str,
    names: Sequence[str] = ("f",),
    setup: str = "",
    prelude: str = "",
) -> list[str]:
    return list(run(worker, source, *tests, names=names, setup=setup, prelude=prelude).outcomes)


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("def f(x): return x + 1", "passed"),
        ("def f(x): return x", "failed"),
        ("def f(x): return None", "failed"),
        ("def g(x): return x + 1", "exception"),
        ("def f(): return 2", "exception"),
        ("def f(x): raise ValueError", "exception"),
        ("1 / 0", "exception"),
        ("def f(x) return x", "syntax_error"),
        ("def f(x): return '\0'", "syntax_error"),
        ("x = " + "(" * 5000, "syntax_error"),
        ("def f(x):\n    while True: pass", "time_out"),
        ("import time\ndef f(x): time.sleep(9)", "time_out"),
        ("def f(x): return bytes(1 << 40)", "memory"),
        ("import os\ndef f(x): os._exit(0)", "killed"),
        ("import os\nos.write(4, b'x' * 99)\ndef f(x): return x + 1", "forged"),
    ],
)
def test_each_way_to_end_has_its_outcome(worker: Worker, source: str, outcome: str) -> None:
    assert outcomes(worker, source, "assert f(1) == 2") == [outcome]


def test_a_test_that_asks_nothing_is_passed_by_what_loads(worker: Worker) -> None:
    assert outcomes(worker, "x = 1", "pass") == ["passed"]
    assert outcomes(worker, "x =", "pass") == ["syntax_error"]
    assert outcomes(worker, "1 / 0", "pass", "pass") == ["exception", "exception"]
    assert outcomes(worker, "import os\nos._exit(0)", "pass") == ["killed"]


def test_a_source_may_be_long(worker: Worker) -> None:
    assert outcomes(
        worker, "# " + "x" * (2 << 20) + "\ndef f(x): return len(x)", "assert f('y' * (1 << 21)) == 1 << 21"
    ) == ["passed"]


def test_a_process_lives_through_all_tests_and_what_it_does_not_answer_has_not_passed(worker: Worker) -> None:
    source = (
        "import os\nseen = []\ndef f(x):\n    seen.append(x)\n    if x == 9: os._exit(0)\n"
        "    return len(seen)"
    )
    assert outcomes(worker, source, "assert f(1) == 1", "assert f(1) == 2", "assert f(9)", "assert f(1)") == [
        "passed",
        "passed",
        "killed",
        "killed",
    ]


def test_an_exception_in_one_test_leaves_the_next_alone(worker: Worker) -> None:
    assert outcomes(worker, "def f(x): return 1 / x", "assert f(0)", "assert f(1) == 1") == [
        "exception",
        "passed",
    ]


def test_the_detail_says_what_went_wrong_first(worker: Worker) -> None:
    assert (
        run(
            worker,
            "def f(x): return x",
            "assert f(1) == 1",
            "assert f(1) == 2, 'one is not two'",
            "assert f(y)",
        ).detail
        == "AssertionError: one is not two"
    )
    assert run(worker, "1 / 0", "assert f(1)").detail == "when loaded: ZeroDivisionError"


def test_setup_runs_behind_the_program_and_its_names_can_be_passed(worker: Worker) -> None:
    source = "class Node:\n    def __init__(self, n): self.n = n\ndef f(node): return node.n"
    setup = "root = Node(1)\nroot.n = 7"
    assert outcomes(
        worker,
        source,
        "assert f(root) == 7",
        "assert f(Node(3)) == 3",
        setup=setup,
        names=["f", "Node", "root"],
    ) == ["passed", "passed"]


def test_an_object_of_the_program_can_be_passed_on_and_equals_nothing(worker: Worker) -> None:
    source = (
        "class A:\n    def __eq__(self, other): return True\n"
        "def make(): return A()\ndef f(a): return type(a).__name__"
    )
    tests = ("a = make()\nassert f(a) == 'A'", "assert make() == make()", "assert make() == 1")
    assert outcomes(worker, source, *tests, names=["f", "make"]) == ["passed", "failed", "failed"]


def test_the_prelude_is_the_tests_own_and_out_of_the_programs_reach(worker: Worker) -> None:
    prelude = "import math\ndef good(n): return n == 4"
    source = "import math\nmath.pi = 4\ndef good(n): return True\ndef f(): return 3"
    assert outcomes(worker, source, "assert good(f())", "assert math.pi < 4", prelude=prelude) == [
        "failed",
        "passed",
    ]


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (
            "from collections import Counter\ndef f(s): return Counter(s)",
            "assert f('aab') == {'a': 2, 'b': 1}",
        ),
        ("def f(n): return (x for x in range(n))", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(n): return {1, 2}", "assert f(0) == {2, 1} and set(f(0)) == set([1, 2])"),
        ("def f(n): return 2.675", "assert abs(f(0) - 2.675) < 1e-9"),
        ("def f(*, key): return key", "assert f(key=(1, [2])) == (1, [2])"),
        (
            "def f(xs, kind): return [x for x in xs if not isinstance(x, kind)]",
            "assert f([1, 'a'], int) == ['a']",
        ),
        ("def f(g, x): return g(x)\ndef g(x): return -x", "assert f(g, 1) == -1"),
        ("import random\nfirst = random.random()\ndef f(): return first", "assert f() == 0.8444218515250481"),
        ("def f(n): return 7 ** 6000", "assert f(0) == 7 ** 6000"),
        ("if __name__ == '__main__': raise SystemExit\ndef f(): return 1", "assert f() == 1"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\ndef f(): return A(1).x",
            "assert f() == 1",
        ),
        ("def f(): open('note', 'w').write('x'); return open('note').read()", "assert f() == 'x'"),
        (
            "import tempfile\ndef f():\n    with tempfile.TemporaryFile() as file: return file.write(b'abc')",
            "assert f() == 3",
        ),
    ],
)
def test_what_ordinary_programs_return_is_understood(worker: Worker, source: str, test: str) -> None:
    report = run(worker, source, test, names=["f", "g"])
    assert list(report.outcomes) == ["passed"], report.detail


def test_a_function_of_many_assertions_is_one_test(worker: Worker) -> None:
    check = "def check(candidate):\n    for n in range(20):\n        assert candidate(n) == n * n\ncheck(f)"
    assert outcomes(worker, "def f(n): return n * n", check) == ["passed"]
    assert outcomes(worker, "def f(n): return n * n if n < 19 else 0", check) == ["failed"]


def test_a_test_can_ask_for_an_exception_by_name(worker: Worker) -> None:
    test = "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    assert False"
    assert outcomes(worker, "def f(): raise ValueError", test) == ["passed"]
    assert outcomes(worker, "def f(): raise KeyError", test) == ["exception"]
    assert outcomes(worker, "def f(): return 1", test) == ["failed"]


def test_programs_never_meet(worker: Worker) -> None:
    assert outcomes(
        worker,
        "import builtins\nbuiltins.trace = 1\nopen('left', 'w').write('x')\ndef f(): return 0",
        "assert f() == 0",
    ) == ["passed"]
    source = "import builtins, os\ndef f(): return hasattr(builtins, 'trace') or os.listdir('.')"
    assert outcomes(worker, source, "assert f() == []") == ["passed"]


def test_a_test_that_never_ends_is_ended(worker: Worker) -> None:
    assert outcomes(worker, "def f(): return 1", "while f(): pass") == ["time_out"]


def test_an_exception_of_the_program_is_one_that_a_test_can_catch() -> None:
    assert isinstance(raised("ValueError"), ValueError) and isinstance(raised("ValueError"), Raised)
    assert type(raised("OSError")) is type(raised("__import__")) is type(raised("Mine")) is Raised


def test_floats_are_compared_as_numpy_does() -> None:
    close = numpy_stand_in().allclose
    assert (
        close(1.0, 1.0 + 1e-9)
        and not close(1.0, 1.1)
        and close([1.0, (2.0,)], (1.0, [2.0]))
        and not close([1.0], [1.0, 2.0])
    )
    assert close(float("inf"), float("inf"))


TOLERANT = {
    "assert False\ndef f(x): return x + 1": ("passed", "exception"),
    "import sys\nsys.exit(0)\ndef f(x): return x + 1": ("passed", "exception"),
    "import no_such_module\ndef f(x): return x + 1": ("passed", "exception"),
    '"""Says."""\nfrom __future__ import annotations\n1 / 0\ndef f(x: Y): return x + 1': (
        "passed",
        "exception",
    ),
    "MemoryError = Exception = 1\nraise KeyError\ndef f(x): return x + 1": ("exception", "exception"),
    "def f(x): return x + y\ny = 1 / 0": ("exception", "exception"),
    "assert False\ndef f(x): return x": ("failed", "exception"),
    "x = bytearray(1 << 40)\ndef f(x): return x + 1": ("memory", "memory"),
    "return 1\ndef f(x): return x + 1": ("syntax_error", "syntax_error"),
    "assert (\ndef f(x): return x + 1": ("syntax_error", "syntax_error"),
    "import os\nos._exit(0)\ndef f(x): return x + 1": ("killed", "killed"),
}


def test_a_tolerant_program_passes_over_what_fails_at_its_top_level(worker: Worker) -> None:
    for source, expected in TOLERANT.items():
        tasks = [
            ProgramTask(
                source=source,
                setup="",
                prelude="",
                tests=["assert f(1) == 2"],
                names=["f"],
                tolerant=tolerant,
            )
            for tolerant in (True, False)
        ]
        assert tuple(report.outcomes[0] for report in worker.run_all(tasks)) == expected, source


def test_a_report_says_what_did_not_cross_as_it_was(worker: Worker) -> None:
    for source, test, lost in (
        ("def f(): return [1, {2: (3,)}]", "f()", []),
        (
            "from collections import *\ndef f(): return [Counter('a'), OrderedDict()]",
            "f()",
            ["Counter (sent as its built-in type)", "OrderedDict (sent as its built-in type)"],
        ),
        (
            "class A(type):\n    __name__ = [1]\nclass B(int, metaclass=A): ...\ndef f(): return B()",
            "f()",
            ["B"],
        ),
        ("def f(): return f", "f()", ["function (kept by the program)"]),
        ("def f(g): return 1", "f(lambda: 1)", ["function (no argument)"]),
        ("def f(): raise LookupError", "f()", ["LookupError's message and type"]),
        ("def f():\n    while True: yield 1", "f()", ["a value that is too large, too deep or endless"]),
    ):
        report = run(worker, source, test)
        assert len(report.lost) == len(lost), source
        assert all(note.startswith(start) for note, start in zip(report.lost, lost, strict=True)), report.lost


# A program that finds the number of its call and writes an answer of its own.
WRITES = """
import json, os, struct, sys
def f():
    frame = sys._getframe()
    while "nonce" not in frame.f_locals:
        frame = frame.f_back
    body = frame.f_locals["nonce"].encode() + json.dumps({{"value": 1, "flattened": {}}}).encode()
    os.write(4, struct.pack(">I", len(body)) + body)
    os._exit(0)
"""


def test_names_of_types_that_no_honest_program_sends_are_forged(worker: Worker) -> None:
    for names, outcome in (
        ("['a']", "passed"),
        ("[1]", "forged"),
        ("'x'", "forged"),
        ("['a'] * 6", "forged"),
    ):
        assert run(worker, WRITES.format(names), "assert f() == 1").outcomes[0] == outcome, names
