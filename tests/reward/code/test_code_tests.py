"""From a completion to a verdict: which program it holds, which tests count, and what is not scored."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import program_forms
import pytest
from cli import ROOT
from hydra.utils import instantiate
from kernel import needs_any
from omegaconf import OmegaConf

from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.core.protocols import RewardFn
from mirrorpo.reward.code import code_tests
from mirrorpo.reward.code.code_tests import CodeTests, names_of
from mirrorpo.reward.sandbox.worker import ProgramReport, ProgramTask

SETTINGS: dict[str, Any] = {
    "tests": "hidden",
    "grade": "fraction",
    "extraction": "strict",
    "shaping": None,
    "cpu_s": 1,
    "wall_s": 2.0,
    "memory_mb": 256,
    "workers": 1,
    "sandbox": "required",
}
TESTS = ("assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9")
CHECKS = Checks(
    entry_point="f", prefix="", setup="", prelude="", visible=TESTS[:1], hidden=TESTS[1:], fault=""
)
RIGHT = "def f(x): return x * x"


def prompt(uid: str = "p", gold: str = RIGHT, **changes: Any) -> Prompt:
    return Prompt(
        uid=uid, question="Square.", gold=gold, demonstration=gold, checks=replace(CHECKS, **changes)
    )


class Recorded:
    """A sandbox that notes its jobs and finds that every test passes which the program mentions."""

    def __init__(self) -> None:
        self.jobs: list[ProgramTask] = []
        self.mechanism = "recorded"

    def __call__(self, jobs: Sequence[ProgramTask]) -> list[ProgramReport]:
        self.jobs += jobs
        out = []
        for job in jobs:
            broken = "broken" in job.source
            outcomes = [
                "killed" if broken else "passed" if test[7:10] in job.source else "failed"
                for test in job.tests
            ]
            report = ProgramReport(outcomes=outcomes, detail="", cpu_s=0.0, wall_s=0.0, broken=broken)  # type: ignore[arg-type]
            out.append(report)
        return out


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(code_tests, "shared_sandbox", lambda *settings: found)
    return found


def reward(**changes: Any) -> CodeTests:
    return CodeTests(**SETTINGS | changes)


@pytest.mark.parametrize(
    ("tests", "prelude", "names"),
    [
        (["assert f(1) == max(g(2), 0)"], "", ["f", "g"]),
        (["def check(candidate):\n    for n in range(3):\n        assert candidate(n)\ncheck(f)"], "", ["f"]),
        (["import numpy as np\nassert np.allclose(f(1), 2)"], "", ["f"]),
        (["assert math.isclose(f(1), 2)"], "import math", ["f"]),
        (["try:\n    f(1)\nexcept ValueError as error:\n    assert str(error)"], "", ["f"]),
        (["with g() as h:\n    assert h and [k for k in f(1)] and (lambda m: m)(1)"], "", ["f", "g"]),
    ],
)
def test_the_programs_names_are_those_that_nobody_else_defines(
    tests: list[str], prelude: str, names: list[str]
) -> None:
    assert names_of(tests, prelude) == names


@pytest.mark.parametrize(
    ("changes", "tests", "reward_given", "outcome"),
    [
        ({}, TESTS[1:], 0.5, "failed"),
        ({"tests": "visible"}, TESTS[:1], 0.0, "failed"),
        ({"tests": "all"}, TESTS, 1 / 3, "failed"),
        ({"grade": "all"}, TESTS[1:], 0.0, "failed"),
    ],
)
def test_which_tests_are_run_and_how_they_are_graded(
    recorded: Recorded, changes: dict[str, Any], tests: tuple[str, ...], reward_given: float, outcome: str
) -> None:
    (verdict,) = reward(**changes)(["f(3"], [prompt()])
    assert tuple(recorded.jobs[0].tests) == tests
    assert (verdict.reward, verdict.outcome, verdict.correct) == (pytest.approx(reward_given), outcome, False)


def test_all_passed_is_right_and_both_readings_are_reported(recorded: Recorded) -> None:
    text = "So:\n```\nf(2 f(3\n```"
    strict, flexible = (
        reward(extraction=reading)(["f(2", text], [prompt(), prompt()])[1]
        for reading in ("strict", "flexible")
    )
    assert strict == replace(flexible, outcome=strict.outcome, reward=strict.reward)
    assert (strict.strict, strict.flexible) == (True, True)
    assert len({job.source for job in recorded.jobs}) == 3


def test_equal_programs_of_a_problem_run_once(recorded: Recorded) -> None:
    verdicts = reward()(["f(2", "f(2", "f(3", "f(2"], [prompt(), prompt(), prompt(), prompt("q")])
    assert [job.source for job in recorded.jobs] == ["f(2", "f(3", "f(2"]
    assert [verdict.reward for verdict in verdicts] == [0.5, 0.5, 0.5, 0.5]


def test_who_breaks_the_sandbox_earns_nothing_unless_the_reference_breaks_it_too(
    recorded: Recorded,
) -> None:
    hostile, right = reward()(["broken", "f(2 f(3"], [prompt(), prompt()])
    assert (hostile.reward, hostile.outcome, hostile.correct) == (0.0, "killed", False) and right.correct
    assert [job.source for job in recorded.jobs] == ["broken", "f(2 f(3", prompt().gold]
    verdict, other = reward()(["broken", "broken"], [prompt("faulty", gold="broken"), prompt()])
    assert math.isnan(verdict.reward) and verdict.outcome == "unverifiable" and not verdict.correct
    assert other.reward == 0.0


def test_bad_data_is_not_scored(recorded: Recorded) -> None:
    bad, good = reward()(["f(2 f(3", "f(2 f(3"], [prompt("bad", fault="test 1 does not parse"), prompt()])
    assert math.isnan(bad.reward) and bad.outcome == "bad_data" and good.correct
    assert len(recorded.jobs) == 1


def test_shaping_is_of_a_group_and_changes_no_verdict(recorded: Recorded) -> None:
    shaping = instantiate(OmegaConf.load(ROOT / "conf" / "shaping" / "public.yaml"), _convert_="all")
    long = " " * 200
    verdicts = reward(shaping=shaping)(
        [f"f(2 f(3{long}", f"f(2{long}", f"f(2 f(3{long}"], [prompt(), prompt(), prompt("q")]
    )
    assert [verdict.reward for verdict in verdicts] == [pytest.approx(r) for r in (1.0, 0.5, 1.0)]
    assert [verdict.correct for verdict in verdicts] == [True, False, True]


def test_a_question_without_tests_is_an_error_that_names_the_fix(recorded: Recorded) -> None:
    with pytest.raises(
        ValueError,
        match="q1 has no tests; use a dataset of programs, such as dataset=mbpp, or reward=math_answer",
    ):
        reward()(["1"], [Prompt(uid="q1", question="", gold="1", demonstration="")])
    with pytest.raises(
        ValueError, match=r"reward\.tests=visible: p has no such tests; dataset.visible_tests"
    ):
        reward(tests="visible")(["1"], [prompt(visible=())])


def test_faults_are_found_before_anything_is_scored() -> None:
    needs_any()
    prompts = [
        prompt("good"),
        prompt("row", fault="test 1 does not parse"),
        prompt("wrong", gold="def f(x): return x"),
        prompt("shown", hidden=(), visible=TESTS),
    ]
    assert reward().unjudgeable(prompts) == {
        "row": "test 1 does not parse",
        "wrong": "its reference fails its own tests: failed (AssertionError: )",
        "shown": "it has no hidden tests (reward.tests=hidden)",
    }


def test_the_real_sandbox_judges_and_has_a_name() -> None:
    needs_any()
    judge = reward()
    assert (
        isinstance(judge, RewardFn) and "seccomp" in str(judge.mechanism) and judge.version == "code_tests/4"
    )
    verdicts = judge(
        [RIGHT, "def f(x): return 4", "def f(x) return", "def f(x): return 1 / 0"], [prompt()] * 4
    )
    assert [(verdict.reward, verdict.outcome) for verdict in verdicts] == [
        (1.0, "passed"),
        (0.5, "failed"),
        (0.0, "syntax_error"),
        (0.0, "exception"),
    ]


def test_the_manifest_says_what_kept_programs_in() -> None:
    needs_any()
    judge = reward()
    assert judge.provenance() == {"sandbox": str(judge.mechanism)}


def test_a_reference_that_goes_on_with_the_problems_code_is_checked_as_such() -> None:
    needs_any()
    ahead = prompt("p", gold="    return x * x\n", prefix="def f(x):\n    'Square.'\n")
    assert reward().unjudgeable([ahead]) == {}


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("cpu_s", 0),
        ("wall_s", 0.0),
        ("memory_mb", 10),
        ("workers", 0),
        ("thinking", "x"),
        ("top_level", "x"),
    ],
)
def test_a_knob_out_of_range_is_named(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"reward.{knob}={value!r}"):
        reward(**{knob: value})


def form_verdicts(
    forms: list[tuple[str, bool]], question: Prompt, **changes: Any
) -> list[tuple[str, bool, Any]]:
    judge = reward(grade="all", cpu_s=2, wall_s=20.0, workers=2, **changes)
    verdicts = judge([program_forms.written(text) for text, _ in forms], [question] * len(forms))
    return [(text, right, verdict) for (text, right), verdict in zip(forms, verdicts, strict=True)]


MBPP_PROMPT = prompt("mbpp", entry_point=program_forms.ENTRY, visible=(), hidden=program_forms.TESTS)
HUMANEVAL_PROMPT = prompt(
    "humaneval",
    entry_point=program_forms.HUMANEVAL_ENTRY,
    prefix=program_forms.PREFIX,
    prelude=program_forms.PREFIX,
    visible=(),
    hidden=(program_forms.HUMANEVAL_TEST,),
)


def test_programs_are_judged_as_models_write_them() -> None:
    needs_any()
    for name, forms, question in (
        ("mbpp", program_forms.MBPP + program_forms.FURTHER_MBPP, MBPP_PROMPT),
        ("humaneval", program_forms.HUMANEVAL + program_forms.FURTHER_HUMANEVAL, HUMANEVAL_PROMPT),
    ):
        verdicts = form_verdicts(forms, question)
        assert not [text for text, right, verdict in verdicts if verdict.flexible != right], name
        # What is right when it is taken literally is right however it is read.
        assert not [text for text, _, verdict in verdicts if verdict.strict and not verdict.flexible], name


def test_what_the_datasets_code_behind_it_uses_is_kept() -> None:
    needs_any()
    text = "```\ndef f(x): return x.n\n```\n```\nclass N:\n    n = 7\n```\n```\nprint(N)\n```"
    question = prompt(setup="root = N()", visible=(), hidden=("assert f(root) == 7",))
    assert reward(extraction="flexible")([text], [question])[0].correct


STRICT = (
    ("$R", True), ("```python\n$R\n```", True), ("~~~py\n$R\n~~~\n", True), ("$R\n```", True),
    ('```python title="a"\n$R\n```', True), ("<think>$W</think>\n$R", True), ("$R\n\nassert False", True),
    ("Here:\n```python\n$R\n```", False), ("```python\n$R\n```\nDone.", False), ("$R\n\nDone it is.", False),
    ("```python\n$R\n```\n```\nheo\n```", False), ("```bash\n$R\n```", False),
)  # fmt: skip


def test_the_strict_reading_is_all_of_the_text_or_a_fence_and_nothing_around_it() -> None:
    needs_any()
    verdicts = form_verdicts(list(STRICT), MBPP_PROMPT)
    assert [(text, verdict.strict) for text, _, verdict in verdicts] == list(STRICT)


def test_a_program_may_have_to_run_through() -> None:
    needs_any()
    forms = [
        ("$R\n\nassert remove_Occ('hello', 'l') == 'hello'", False),
        ("import sys\n\n$R\n\nsys.exit(0)", False),
        ("import unittest\n\n$R\n\nunittest.main()", False),
        ("$R\n\nprint(remove_Occ(input(), input()))", False),
        ("$R\n\nprint(remove_Occ('hello', 'l'))", True),
        ("```python\n$R\n```\nOutput:\n```\nheo\n```", True),
    ]
    for text, right, verdict in form_verdicts(forms, MBPP_PROMPT, top_level="all", extraction="flexible"):
        assert verdict.correct == right, text
    for text, _, verdict in form_verdicts(forms, MBPP_PROMPT, extraction="flexible"):
        assert verdict.correct, text


def test_thinking_is_read_on_request(recorded: Recorded) -> None:
    text = "<think>\n```python\ndef f(2 f(3\n```\n</think>\nThat is all."
    skips, reads = (
        reward(extraction="flexible", thinking=way)([text], [prompt()])[0] for way in ("skip", "read")
    )
    assert (skips.correct, reads.correct) == (False, True)
    assert not list(reward().notes("reward", None))  # type: ignore[arg-type]
    (note,) = reward(thinking="read").notes("reward", None)  # type: ignore[arg-type]
    assert note.startswith("reward.thinking=read: ")


def test_an_answer_ends_where_its_prompt_teaches_an_end(recorded: Recorded) -> None:
    text = "f(2 f(3\n[DONE]\n\nYou are an expert.\n[BEGIN]\ndef g(): ..."
    reward()([text], [prompt(end="[DONE]")])
    assert {job.source for job in recorded.jobs} == {"f(2 f(3\n"}


CROSSINGS = {
    "from collections import Counter\ndef f(x): return Counter(str(x))": (
        "assert f(1).most_common(1) == [('1', 1)]",
        "Counter (sent as its built-in type)",
    ),
    "import datetime\ndef f(x): return datetime.date(2000, 1, x)": (
        "assert f(1).day == 1",
        "date (kept by the program)",
    ),
    "def f(g): return g(1)": ("assert f(lambda x: x) == 1", "function (no argument)"),
    "def f(x): return list(range(200_000))": (
        "assert len(f(1)) == 200_000",
        "a value that is too large, too deep or endless",
    ),
    "def f(x): raise KeyError('no ' + x)": (
        "try:\n    f('a')\nexcept KeyError as error:\n    assert error.args == ('no a',)",
        "KeyError's message and type",
    ),
}


REFUSALS = {
    "import numpy\ndef f(x): return 1": "no module 'numpy'; exception",
    "import subprocess\ndef f(x): return subprocess.run(['true'])": (
        "PermissionError in subprocess.py, _execute_child: "
    ),
    "import asyncio\nasync def g(): return 1\ndef f(x): return asyncio.run(g())": "PermissionError in ",
    "import shutil\ndef f(x):\n    open('a', 'w').close()\n    shutil.copy('a', 'b')": (
        "PermissionError in shutil.py, copymode: [Errno 1] Operation not permitted: 'b'; exception"
    ),
    "def f(x): return open('/proc/cpuinfo').read()": "/proc/cpuinfo",
    "import threading, time\ndef f(x):\n    for _ in range(40):\n"
    "        threading.Thread(target=time.sleep, args=(1,)).start()": "more than 32 threads at once",
    "def f(x):\n    for n in range(2000): open(str(n), 'w').close()\n    import time\n    time.sleep(1)": (
        "more than 1000 files, or too much on disk; killed"
    ),
}


def test_a_reference_that_fails_for_the_wire_or_a_refusal_says_so() -> None:
    needs_any()
    prompts = [
        prompt(gold, gold=gold, visible=(), hidden=("assert f", test))
        for gold, (test, _) in CROSSINGS.items()
    ]
    prompts += [prompt(gold, gold=gold, visible=(), hidden=("assert f(1) == 1",)) for gold in REFUSALS]
    wrong = ("def f(x): return 0", "def f(x): raise ValueError(x)")
    prompts += [prompt(gold, gold=gold, visible=(), hidden=("assert f(1) == 1",)) for gold in wrong]
    faults = reward().unjudgeable(prompts)
    for gold, (_, lost) in CROSSINGS.items():
        assert "does not cross" in faults[gold] and faults[gold].endswith(lost), faults[gold]
    for gold, name in REFUSALS.items():
        assert "what programs do not have (docs/code.md): " in faults[gold], faults[gold]
        assert name in faults[gold] and "reference fails" not in faults[gold], faults[gold]
    assert [faults[gold].removeprefix("its reference fails its own tests: ") for gold in wrong] == [
        "failed (AssertionError: )",
        "exception (raised ValueError)",
    ]
