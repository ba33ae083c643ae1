"""Programs, judged by running their tests: the share that passes, or whether all do.

Two readings of a completion are always reported. *Strict* takes it literally: all of the text is the
program, or one Markdown fence and nothing around it. *Flexible* looks for the program where models write it
(`text.written_program`).
"""

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mirrorpo.core.batch import Checks, Prompt, Verdict
from mirrorpo.core.protocols import Assembly
from mirrorpo.reward.sandbox.judge import Raised, raised
from mirrorpo.reward.sandbox.pool import Sandbox, shared_sandbox
from mirrorpo.reward.sandbox.worker import Bounds, Mechanism, ProgramReport, ProgramTask
from mirrorpo.reward.shaping import PublicShaping
from mirrorpo.text.program_parts import Wanted, without_demonstrations
from mirrorpo.text.python_source import parsed, uses
from mirrorpo.text.thinking import Thinking, behind_thinking
from mirrorpo.text.written_program import chosen_program, completed, literal_program

VERSION = "code_tests/4"  # of everything that decides a verdict here; results of two versions do not compare


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
    and "unverifiable" (NaN: the problem has a fault; the sandbox broke, and on the reference too).

    Programs that are equal run once a call. A program's process lives through all of its tests; when it ends
    early, those that are left have not passed.

    Attributes:
        tests: which are trained on: "hidden", "visible" or "all".
        grade: "fraction" of the tests passed, or "all" of them or nothing.
        extraction: which reading of the completion is trained on; both are always reported.
        thinking: "skip": what stands in `<think>` is no program; "read": it is read like the rest.
        top_level: "definitions": a program's own checks and demonstrations decide nothing, that is, what
            stands behind the last definition of its function and calls it is not run, and a statement at the
            top level that fails is passed over; "all": the program has to run from its first line to its end.
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
    thinking: Thinking = "skip"
    top_level: Literal["definitions", "all"] = "definitions"
    shaping: PublicShaping | None
    cpu_s: int
    wall_s: float
    memory_mb: int
    workers: int
    sandbox: Literal["required", "unsafe"]

    def __post_init__(self) -> None:
        choices = {
            "thinking": (self.thinking, ("skip", "read")),
            "top_level": (self.top_level, ("definitions", "all")),
        }
        for name, (chosen, known) in choices.items():
            if chosen not in known:
                raise ValueError(f"reward.{name}={chosen!r} is unknown; use {' or '.join(known)}")
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
        readings = [self._readings(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
        tasks: dict[tuple[str, str], ProgramTask] = {}
        for programs, prompt in zip(readings, prompts, strict=True):
            checks = _checks(prompt)
            if not checks.fault:
                for program in programs:
                    task = _task(program, checks, self._chosen(prompt), self.top_level == "definitions")
                    tasks.setdefault((prompt.uid, program), task)
        reports = dict(zip(tasks, self._sandbox()(list(tasks.values())), strict=True))
        reports |= self._undecided(reports, prompts)
        verdicts = [
            self._verdict(reports.get((prompt.uid, strict)), reports.get((prompt.uid, flexible)))
            for (strict, flexible), prompt in zip(readings, prompts, strict=True)
        ]
        return self._shaped(texts, prompts, verdicts) if self.shaping else verdicts

    def provenance(self) -> dict[str, object]:
        """What the manifest says beside the version: what kept programs in."""
        return {"sandbox": str(self.mechanism)}

    def notes(self, group: str, assembly: Assembly) -> Iterator[str]:
        """That credit leaves thinking aside where the reward reads it."""
        if self.thinking == "read":
            yield (
                f"{group}.thinking=read: a program in a model's thinking counts; weightings by statements "
                "still take the program behind it"
            )

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The reason by uid where a row lacks what it is judged by, or its reference fails its own tests."""
        out = {prompt.uid: _checks(prompt).fault or self._lacking(prompt) for prompt in prompts}
        sound = [prompt for prompt in prompts if not out[prompt.uid]]
        tasks = [
            self._reference(prompt, (*_checks(prompt).visible, *_checks(prompt).hidden)) for prompt in sound
        ]
        for prompt, report in zip(sound, self._sandbox()(tasks), strict=True):
            if _outcome(report) != "passed":
                out[prompt.uid] = _reference_fault(report)
        return {uid: fault for uid, fault in out.items() if fault}

    def _undecided(
        self, reports: Mapping[tuple[str, str], ProgramReport], prompts: Sequence[Prompt]
    ) -> dict[tuple[str, str], ProgramReport]:
        # Who breaks the worker that judges has earned nothing, unless the reference breaks it too.
        broken = {uid for (uid, _), report in reports.items() if report.broken}
        judges = list({prompt.uid: prompt for prompt in prompts if prompt.uid in broken}.values())
        references = self._sandbox()([self._reference(prompt, self._chosen(prompt)) for prompt in judges])
        faulty = {prompt.uid for prompt, report in zip(judges, references, strict=True) if report.broken}
        return {
            key: replace(report, outcomes=["unverifiable"] * len(report.outcomes))
            for key, report in reports.items()
            if report.broken and key[0] in faulty
        }

    def _reference(self, prompt: Prompt, tests: Sequence[str]) -> ProgramTask:
        checks = _checks(prompt)
        return _task(completed(prompt.gold, _wanted(checks, tests)), checks, tests, False)

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

    def _readings(self, text: str, prompt: Prompt) -> tuple[str, str]:
        # The strict program and the flexible one.
        checks = _checks(prompt)
        if checks.fault:
            return "", ""
        if self.thinking == "skip":
            start, end = behind_thinking(text)
            text = text[start:end]
        if checks.end:
            text = text.partition(checks.end)[0]
        wanted = _wanted(checks, self._chosen(prompt))
        strict, flexible = literal_program(text, wanted), chosen_program(text, wanted)
        if self.top_level == "all":
            return strict, flexible
        return without_demonstrations(strict, wanted), without_demonstrations(flexible, wanted)

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


def _names(checks: Checks, tests: Sequence[str]) -> list[str]:
    # The entry point may have a built-in's name (task 126's is `sum`).
    return sorted({*names_of(tests, checks.prelude), checks.entry_point})


def _wanted(checks: Checks, tests: Sequence[str]) -> Wanted:
    # The dataset's code that runs behind the program may use more of it than the tests do.
    names = {*_names(checks, tests), *uses(parsed(checks.setup) or ast.Module([], []))}
    return Wanted(entry_point=checks.entry_point, prefix=checks.prefix, names=sorted(names))


def _task(program: str, checks: Checks, tests: Sequence[str], tolerant: bool) -> ProgramTask:
    return ProgramTask(
        source=program,
        setup=checks.setup,
        prelude=checks.prelude,
        tests=list(tests),
        names=_names(checks, tests),
        tolerant=tolerant,
    )


def _reference_fault(report: ProgramReport) -> str:
    # Why a reference fails: for what programs do not have, for a value that does not cross, or by itself.
    ended = f"{_outcome(report)} ({report.detail})"
    if report.refused:
        return f"its reference needs what programs do not have (docs/code.md): {report.refused}; {ended}"
    # An error that a test could have caught by its name is one that no test expects.
    error = report.detail.removeprefix("raised ")
    plain = f"{error}'s message and type" if type(raised(error)) is not Raised else ""
    lost = [note for note in report.lost if note != plain]
    if lost:
        return (
            f"its reference returns, or its tests pass, what does not cross between them as it is "
            f"(docs/code.md); {ended}: {', '.join(lost)}"
        )
    return f"its reference fails its own tests: {ended}"


def _outcome(report: ProgramReport) -> str:
    return next((outcome for outcome in report.outcomes if outcome != "passed"), "passed")
