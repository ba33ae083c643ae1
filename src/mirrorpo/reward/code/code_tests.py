"""Programs, judged by running their tests: the share that passes, or whether all do.

Two readings of a completion are always reported. *Strict* takes it literally: all of the text is the
program, or one Markdown fence and nothing around it. *Flexible* takes what stands in its Python fences,
whatever is around them; where there is no fence, it is all of the text too.
"""

import ast
import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mirrorpo.core.batch import Checks, Prompt, Verdict
from mirrorpo.reward.sandbox.pool import Sandbox, shared_sandbox
from mirrorpo.reward.sandbox.worker import Bounds, Mechanism, ProgramReport, ProgramTask
from mirrorpo.reward.shaping import PublicShaping
from mirrorpo.text.python_source import parsed

VERSION = "code_tests/1"  # of everything that decides a verdict here; results of two versions do not compare

_FENCED = re.compile(r"```[^\S\n]*(?P<label>[A-Za-z0-9_+.-]*)[^\S\n]*\n(?P<source>.*?)(?:```|\Z)", re.DOTALL)
_PYTHON = ("", "python", "python3", "py")


def fenced(text: str) -> str | None:
    r"""The program in a text's Python fences, one below the other; None where it has none.

    Example:
        >>> fenced("So:\n```python\nx = 1\n```\nand\n```\ny = 2\n```"), fenced("x = 1")
        ('x = 1\n\ny = 2\n', None)
    """
    sources = [match["source"] for match in _FENCED.finditer(text) if match["label"].lower() in _PYTHON]
    return "\n".join(sources) if sources else None


def strict_program(text: str) -> str:
    r"""All of the text, without a fence that encloses it.

    Example:
        >>> strict_program("```python\nx = 1\n```"), strict_program("Sure!\n```\nx = 1\n```")
        ('x = 1\n', 'Sure!\n```\nx = 1\n```')
    """
    fence = _FENCED.fullmatch(text.strip())
    is_program = fence and fence["label"].lower() in _PYTHON and "```" not in fence["source"]
    return fence["source"] if fence and is_program else text


def whole_program(source: str, checks: Checks) -> str:
    r"""The program that runs: a completion behind the code that the problem begins with.

    The completion writes the function anew or goes on with it. What goes on is cut where it comes back to
    the margin: a model without an end mark goes on with other things.

    Example:
        >>> checks = Checks(
        ...     entry_point="f", prefix="def f():\n", setup="", prelude="", visible=[], hidden=[], fault="")
        >>> whole_program("    return 1\n\nprint(2)", checks)
        'def f():\n    return 1\n'
        >>> whole_program("def f(): return 1", checks)
        'def f():\ndef f(): return 1'
    """
    if not checks.prefix:
        return source
    prefix = checks.prefix.rstrip("\n") + "\n"
    if re.search(rf"^(?:async )?def {re.escape(checks.entry_point)}\b", source, re.MULTILINE):
        return prefix + source
    lines: list[str] = []
    for line in source.split("\n"):
        if line.strip() and not line[0].isspace():
            break
        lines.append(line)
    return prefix + "\n".join(lines).rstrip() + "\n"


def names_of(tests: Sequence[str], prelude: str) -> list[str]:
    """The names that tests use and neither they, the prelude nor Python define: the program's.

    Example:
        >>> names_of(["assert sorted(f(Pair(1, n)) for n in [1]) == [math.pi]"], "import math")
        ['Pair', 'f']
    """
    used: set[str] = set()
    bound = {name for name in vars(builtins)}
    for source in (*tests, prelude):
        for node in ast.walk(parsed(source) or ast.Module([], [])):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    used.add(name)
                case (
                    ast.Name(id=name)
                    | ast.arg(arg=name)
                    | ast.FunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    bound.add(name)
                case ast.alias(name=name, asname=alias):
                    bound.add((alias or name).partition(".")[0])
                case ast.ExceptHandler(name=str(name)):
                    bound.add(name)
    return sorted(used - bound)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTests:
    """Reward by tests that run in the sandbox.

    Outcomes are of the first test that does not pass: "passed" (all do), "failed" (an assertion),
    "exception", "syntax_error", "time_out", "memory", "killed" (the process ended without an answer, by its
    doing or by a limit), "forged" (it wrote to the channel of its answers; no test then counts), "bad_data"
    and "unverifiable" (NaN: the problem has a fault; the sandbox broke).

    Programs that are equal run once a call. A program's process lives through all of its tests; when it ends
    early, those that are left have not passed.

    Attributes:
        tests: which are trained on: "hidden", "visible" or "all".
        grade: "fraction" of the tests passed, or "all" of them or nothing.
        extraction: which reading of the completion is trained on; both are always reported.
        shaping: additions to the reward, or None.
        cpu_s: seconds of processor time for a program with all its tests.
        wall_s: seconds by the clock for the same; for a program that sleeps.
        memory_mb: of address space.
        workers: programs that run at once.
        sandbox: "required", or "unsafe" to run programs where nothing keeps them in.

    Raises:
        ValueError: on a knob out of range, and when called, if this machine cannot isolate programs.
    """

    tests: Literal["hidden", "visible", "all"]
    grade: Literal["fraction", "all"]
    extraction: Literal["strict", "flexible"]
    shaping: PublicShaping | None
    cpu_s: int
    wall_s: float
    memory_mb: int
    workers: int
    sandbox: Literal["required", "unsafe"]

    def __post_init__(self) -> None:
        if self.cpu_s < 1 or not self.wall_s > 0:
            raise ValueError(
                f"reward.cpu_s={self.cpu_s}, reward.wall_s={self.wall_s}: a program needs at least 1 s of "
                "processor time, and some of the clock's"
            )
        if self.memory_mb < 128:
            raise ValueError(
                f"reward.memory_mb={self.memory_mb}: Python alone takes some 50; give at least 128"
            )
        if self.workers < 1:
            raise ValueError(f"reward.workers={self.workers} must be at least 1")

    @property
    def version(self) -> str:
        """The reward's version, part of a result's identity."""
        return VERSION

    @property
    def mechanism(self) -> Mechanism:
        """What keeps programs in on this machine; measured when the sandbox starts."""
        return self._sandbox().mechanism

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        readings = [_readings(text) for text in texts]
        tasks: dict[tuple[str, str], ProgramTask] = {}
        for sources, prompt in zip(readings, prompts, strict=True):
            checks = _checks(prompt)
            if not checks.fault:
                for source in sources:
                    tasks.setdefault((prompt.uid, source), _task(source, checks, self._chosen(prompt)))
        reports = dict(zip(tasks, self._sandbox()(list(tasks.values())), strict=True))
        verdicts = [
            self._verdict(reports.get((prompt.uid, strict)), reports.get((prompt.uid, flexible)))
            for (strict, flexible), prompt in zip(readings, prompts, strict=True)
        ]
        return self._shaped(texts, prompts, verdicts) if self.shaping else verdicts

    def provenance(self) -> dict[str, object]:
        """What the manifest says beside the version: what kept programs in."""
        return {"sandbox": str(self.mechanism)}

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The reason by uid where a row lacks what it is judged by, or its reference fails its own tests."""
        out = {prompt.uid: _checks(prompt).fault or self._lacking(prompt) for prompt in prompts}
        sound = [prompt for prompt in prompts if not out[prompt.uid]]
        tasks = [
            _task(prompt.gold, _checks(prompt), (*_checks(prompt).visible, *_checks(prompt).hidden))
            for prompt in sound
        ]
        for prompt, report in zip(sound, self._sandbox()(tasks), strict=True):
            if _outcome(report) != "passed":
                out[prompt.uid] = f"its reference fails its own tests: {_outcome(report)} ({report.detail})"
        return {uid: fault for uid, fault in out.items() if fault}

    def _lacking(self, prompt: Prompt) -> str:
        checks = _checks(prompt)
        lacking = {"hidden": not checks.hidden, "visible": not checks.visible, "all": False}[self.tests]
        return f"it has no {self.tests} tests (reward.tests={self.tests})" if lacking else ""

    def _chosen(self, prompt: Prompt) -> Sequence[str]:
        checks = _checks(prompt)
        tests = {
            "hidden": checks.hidden,
            "visible": checks.visible,
            "all": (*checks.visible, *checks.hidden),
        }[self.tests]
        if not tests:
            raise ValueError(
                f"reward.tests={self.tests}: {prompt.uid} has no such tests; dataset.visible_tests says how "
                f"many are shown"
            )
        return tests

    def _sandbox(self) -> Sandbox:
        return shared_sandbox(
            self.workers, Bounds(cpu_s=self.cpu_s, wall_s=self.wall_s, memory_mb=self.memory_mb), self.sandbox
        )

    def _verdict(self, strict: ProgramReport | None, flexible: ProgramReport | None) -> Verdict:
        trained = strict if self.extraction == "strict" else flexible
        if trained is None:
            return Verdict(
                reward=float("nan"), strict=False, flexible=False, correct=False, outcome="bad_data"
            )
        outcome = _outcome(trained)
        share = sum(test == "passed" for test in trained.outcomes) / len(trained.outcomes)
        reward = share if self.grade == "fraction" else float(outcome == "passed")
        return Verdict(
            reward=float("nan") if outcome == "unverifiable" else reward,
            strict=strict is not None and _outcome(strict) == "passed",
            flexible=flexible is not None and _outcome(flexible) == "passed",
            correct=outcome == "passed",
            outcome=outcome,
        )

    def _shaped(
        self, texts: Sequence[str], prompts: Sequence[Prompt], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        assert self.shaping is not None
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(prompt.uid, []).append(index)
        rewards: dict[int, float] = {}
        for members in groups.values():
            shaped = self.shaping(
                [texts[index] for index in members],
                [verdicts[index].reward for index in members],
                [verdicts[index].outcome for index in members],
            )
            rewards |= zip(members, shaped, strict=True)
        return [replace(verdict, reward=rewards[index]) for index, verdict in enumerate(verdicts)]


def _checks(prompt: Prompt) -> Checks:
    if prompt.checks is None:
        raise ValueError(
            f"reward=code_tests: {prompt.uid} has no tests; use a dataset of programs, such as dataset=mbpp, "
            f"or reward=math_answer"
        )
    return prompt.checks


def _readings(text: str) -> tuple[str, str]:
    # The strict program and the flexible one.
    strict, flexible = strict_program(text), fenced(text)
    return strict, strict if flexible is None else flexible


def _task(source: str, checks: Checks, tests: Sequence[str]) -> ProgramTask:
    # The entry point may have a built-in's name (task 126's is `sum`).
    names = sorted({*names_of(tests, checks.prelude), checks.entry_point})
    return ProgramTask(
        source=whole_program(source, checks),
        setup=checks.setup,
        prelude=checks.prelude,
        tests=list(tests),
        names=names,
    )


def _outcome(report: ProgramReport) -> str:
    return next((outcome for outcome in report.outcomes if outcome != "passed"), "passed")
