"""The side of the sandbox that judges: it holds the tests, asks the program for values, and compares them
itself.

Beside this process a worker has a fork server (`program`), which was forked before any test was read, and a
process that keeps them both (`keeper`). The program's process sees its own source and then calls, one at a
time; a test that wants `f(2)` finds in the place of `f` a stand-in, which sends the name and the arguments
and waits for the value. So the program can decide what it answers, and nothing else: asserts, comparisons and
expected values are in another process.
Each call carries a number drawn at random that its answer must repeat; bytes that were not asked for, or no
such number, and the whole sample is void (`forged`).

Tests are the dataset's own code and are trusted not to attack this process. Arguments travel by value: a
function that changes its argument in place is seen to return, not to change it. A value that is not plain
data stays with the program; it can be passed on, and equals nothing.

What a program answers can keep C code busy here, which no signal handler ends: processor time and memory of
this process are limited too, and what exceeds its time costs the worker.

A worker is a script of its own (`worker.BOOT`), so it imports the standard library and its siblings only.
"""

import builtins
import functools
import json
import math
import os
import resource
import signal
import socket
import sys
import time
import types
from collections.abc import Mapping

from mirrorpo.reward.sandbox import keeper, lock, program, wire
from mirrorpo.reward.sandbox.wire import Handle, Value

SPARE_S = 1  # of processor time: what a test has beyond a program's
MOST_LOST = 8  # notes of what did not cross as it was
# Their subclasses cannot be mixed with others.
UNMIXABLE = (OSError, SyntaxError, UnicodeError, StopIteration, ImportError)


class Stopped(BaseException):
    """The program answers no more; no test may catch it.

    Attributes:
        outcome: why.
        detail: for a reader.
    """

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(outcome)
        self.outcome, self.detail = outcome, detail or outcome


class Raised(Exception):
    """The program's function raised."""


def raised(name: str) -> Raised:
    """An exception that a test can catch under the built-in name it had in the program."""
    kind = vars(builtins).get(name)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UNMIXABLE):
        return type(name, (Raised, kind), {})(name)
    return Raised(name)


class Processes:
    """What the fork server makes, one after another: the pipes of the process that is ready."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self._receive()

    def end(self) -> tuple[int, float, bool]:
        """Kill what runs.

        Returns:
            Its wait status, its seconds of processor time, and whether it had written too much.
        """
        self.control.sendall(b".")
        return program.REPORT.unpack(self._receive())

    def _receive(self) -> bytes:
        report, (self.calls, self.values), _, _ = socket.recv_fds(self.control, program.REPORT.size, 2)
        os.set_blocking(self.calls, False)
        return report


class Session:
    """One program's process, from its source to its end."""

    def __init__(self, processes: Processes, wall_s: float, task: Mapping[str, Value]) -> None:
        self.processes, self.calls, self.values = processes, processes.calls, processes.values
        self.used = False
        self.deadline = time.monotonic() + wall_s
        self.stopped: Stopped | None = None
        self.lost: dict[str, None] = {}  # what did not cross as it was, for a reader
        self.refused = ""  # what the sandbox does not have and the program failed for; by the program's word
        program_parts = {name: task[name] for name in ("source", "setup", "tolerant")}
        try:
            # Whether it loads is part of the first answer: a question less.
            wire.give(self.calls, "0" * wire.NONCE, program_parts, self.deadline)
        except TimeoutError:
            self.stopped = Stopped("time_out")
        except OSError:
            self.stopped = Stopped("gone")

    def ask(self, message: Mapping[str, Value]) -> Value:
        """The value that answers a message.

        Raises:
            Raised: if the program raised.
            Stopped: if it gave no proper answer.
        """
        # What stopped once stays so: a test that catches everything must not have the last word.
        if self.stopped is None:
            self.used = True
            try:
                return self._answer(message)
            except TimeoutError:
                self.stopped = Stopped("time_out")
            except wire.Malformed:
                self.stopped = Stopped("forged")
            except (wire.Gone, OSError):
                self.stopped = Stopped("gone")
            except Stopped as stop:
                self.stopped = stop
        raise self.stopped

    def _answer(self, message: Mapping[str, Value]) -> Value:
        nonce = os.urandom(wire.NONCE // 2).hex()
        wire.give(self.calls, nonce, message, self.deadline)
        repeated, reply = wire.receive(self.values, self.deadline)
        if repeated != nonce or not isinstance(reply, dict):
            raise wire.Malformed("no answer to this question")
        self._note_flattened(reply.pop("flattened", []))
        refused = reply.pop("refused", "")
        if not isinstance(refused, str) or len(refused) > program.LONGEST_CAUSE:
            raise wire.Malformed("no cause of a refusal")
        self.refused = self.refused or refused
        if len(reply) != 1:
            raise wire.Malformed("no answer to this question")
        ((kind, content),) = reply.items()
        if kind == "value":
            return wire.decode(content, self._inward)
        if not isinstance(content, str):
            raise wire.Malformed("no name of an error")
        if kind == "raised":
            self.note(
                "a value that is too large, too deep or endless"
                if content == "NotPlain"
                else f"{content[:40]}'s message and type"
            )
            raise raised(content)
        if kind == "syntax":
            raise Stopped("syntax_error", content)
        if kind == "unloaded":
            raise Stopped("memory" if content == "MemoryError" else "exception", f"when loaded: {content}")
        raise wire.Malformed("neither a value nor an error")

    def note(self, lost: str) -> None:
        """Keep that something did not cross as it was."""
        if len(self.lost) < MOST_LOST:
            self.lost[lost] = None

    def encoded(self, value: Value) -> Value:
        """A value on its way to the program."""
        encoder = wire.Encoder(self._outward)
        message = encoder(value)
        self._note_flattened(list(encoder.flattened))
        return message

    def _note_flattened(self, names: Value) -> None:
        if not isinstance(names, list) or len(names) > wire.MOST_FLATTENED:
            raise wire.Malformed("no names of types")
        for name in names:
            if not isinstance(name, str):
                raise wire.Malformed("no name of a type")
            self.note(f"{name[:40]} (sent as its built-in type)")

    def _inward(self, kind: str, number: Value, name: Value) -> Handle:
        if kind != "handle":
            raise wire.Malformed("no handle")
        self.note(f"{name[:40]} (kept by the program)")
        return Handle(number, name)

    def _outward(self, value: Value) -> Value:
        if isinstance(value, Handle):
            return ["handle", value.number, ""]
        if isinstance(value, StandIn):
            return ["name", value.name, ""]
        name = getattr(value, "__name__", "")
        if isinstance(name, str) and name and getattr(builtins, name, None) is value:
            return ["name", name, ""]  # a type, say, that the function is given
        self.note(f"{type(value).__name__} (no argument)")
        raise TypeError(f"{type(value).__name__} cannot be passed to the program")

    def end(self) -> tuple[int, float, bool]:
        """Kill the process.

        Returns:
            Its wait status, its seconds of processor time, and whether it had written too much.
        """
        os.close(self.calls)
        os.close(self.values)
        return self.processes.end()


class StandIn:
    """A name of the program in the judge's place: calling it asks the program."""

    def __init__(self, session: Session, name: str) -> None:
        self.session, self.name = session, name

    def __call__(self, *arguments: Value, **keywords: Value) -> Value:
        encoded = self.session.encoded
        return self.session.ask(
            {"name": self.name, "arguments": encoded(arguments), "keywords": encoded(keywords)}
        )


def judge(task: Mapping[str, Value], processes: Processes, cpu_s: float, wall_s: float) -> dict[str, Value]:
    """Run a program's tests.

    Args:
        task: the fields of a `worker.ProgramTask`.
        processes: where its process comes from.
        cpu_s: seconds of processor time that the program has.
        wall_s: seconds by the clock.

    Returns:
        The fields of a `worker.ProgramReport`.
    """
    started = time.monotonic()
    _bound(cpu_s + SPARE_S, wall_s + 1)
    outcomes: list[str] = []
    causes: list[str] = []
    stopped = ""
    session = Session(processes, wall_s, task)
    try:
        _test(task, session, outcomes, causes)
    except Stopped as stop:
        stopped = stop.outcome
        causes.append(stop.detail)
    except (
        BaseException
    ) as error:  # the tests', whatever it is: the next task must find this process as it was
        stopped, cause = _outcome_of(error)
        causes.append(cause)
    finally:
        _bound(0, 0)
        status, cpu, crowded = session.end()
    detail = next(filter(None, causes), "")
    if stopped == "gone":
        by_signal = os.waitstatus_to_exitcode(status)
        # The kernel's count for the limit is coarser than the one it reports.
        timed = by_signal in (-signal.SIGKILL, -signal.SIGXCPU) and cpu > cpu_s / 2 and not crowded
        stopped = "time_out" if timed else "killed"
        if crowded:
            session.refused = f"more than {program.MOST_FILES} files, or too much on disk"
        detail = f"{stopped}, ended by {by_signal}" if detail == "gone" else detail
    if stopped in ("forged", "syntax_error"):
        outcomes = []
    outcomes += [stopped] * (len(task["tests"]) - len(outcomes))
    times = {"cpu_s": cpu, "wall_s": time.monotonic() - started}
    notes = {"lost": list(session.lost), "refused": session.refused}
    return {"outcomes": outcomes, "detail": detail[:300], **notes, **times}


def _bound(cpu_s: float, wall_s: float) -> None:
    # A test's own loops are ended by a signal; what runs in C ends with this process.
    signal.setitimer(signal.ITIMER_REAL, wall_s)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    if cpu_s:
        most = math.ceil(time.process_time() + cpu_s + 0.5)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))


def _test(task: Mapping[str, Value], session: Session, outcomes: list[str], causes: list[str]) -> None:
    # Each test's outcome, and what went wrong.
    trusted: dict[str, Value] = {"__name__": "tests"}
    exec(compiled(task["prelude"]), trusted)
    for test in task["tests"]:
        namespace = trusted | {name: StandIn(session, name) for name in task["names"]}
        if "random" in sys.modules:
            sys.modules["random"].seed(0)
        outcome, cause = _run(test, namespace)
        causes.append(cause)
        if session.stopped is not None:
            raise session.stopped
        outcomes.append(outcome)
    if not session.used:
        # Tests that call nothing are passed by a program that loads.
        idle = outcomes.copy()
        outcomes.clear()
        session.ask({"name": None})
        outcomes += idle


def _run(test: str, namespace: dict[str, Value]) -> tuple[str, str]:
    try:
        exec(compiled(test), namespace)
    except Stopped:
        raise
    except BaseException as error:
        return _outcome_of(error)
    return "passed", ""


def _outcome_of(error: BaseException) -> tuple[str, str]:
    # Of a test that raised: an assertion, or an operation that the value is not fit for. And why.
    try:
        text = str(error)
    except Exception:
        text = "an error that has no text"  # an assertion's message may be a number of too many digits
    if isinstance(error, Raised):
        return "memory" if text == "MemoryError" else "exception", f"raised {text}"[:300]
    return "memory" if isinstance(error, MemoryError) else "failed", f"{type(error).__name__}: {text}"[:300]


@functools.lru_cache(maxsize=4096)
def compiled(source: str) -> types.CodeType:
    """A test's code; the completions of a group have the same tests."""
    return compile(source, "test", "exec")


def numpy_stand_in() -> types.ModuleType:
    """As much of numpy as the tests of MBPP+ use to compare floats; a bare interpreter has none."""

    def allclose(left: Value, right: Value, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        if isinstance(left, list | tuple) or isinstance(right, list | tuple):
            return len(left) == len(right) and all(
                allclose(a, b, rtol, atol) for a, b in zip(left, right, strict=True)
            )
        return left == right or abs(left - right) <= atol + rtol * abs(right)

    module = types.ModuleType("numpy")
    vars(module).update(
        allclose=allclose,
        ndarray=type("ndarray", (), {}),
        float32=float,
        float64=float,
        inf=float("inf"),
        nan=float("nan"),
    )
    return module


def _with_server(settings: Mapping[str, Value], *, landlock: int, seccomp: bool) -> socket.socket:
    # Forks the server, and goes on beside it as a child of the keeper; the judge's end of their channel.
    judge_end, server_end = socket.socketpair()
    keeper_end, watcher = socket.socketpair()
    server = os.fork()
    if server == 0:
        judge_end.close()
        keeper_end.close()
        watched_by = watcher if settings["watched"] else None
        try:
            program.Server(server_end, watched_by, settings, landlock=landlock, seccomp=seccomp).serve()
        finally:
            os._exit(1)
    server_end.close()
    watcher.close()
    keeper.part_from_keeper(server, keeper_end)
    return judge_end


def main(settings: Mapping[str, Value]) -> None:
    """A worker's loop: a task in, its report out, a line of JSON each, until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.hide_memory()
    available = {"landlock": lock.landlock_version(), "seccomp": lock.has_seccomp()}
    used = {name: min(value, settings[name]) for name, value in available.items()}
    if not used["seccomp"]:
        used["landlock"] = 0  # it isolates nothing alone, and would keep the server from its orphans
    judge_end = _with_server(settings, landlock=used["landlock"], seccomp=bool(used["seccomp"]))
    lock.die_with_parent()
    kept = {"RLIMIT_AS": settings["limits"]["RLIMIT_AS"], "RLIMIT_CORE": 0}
    lock.limit({getattr(resource, name): value for name, value in kept.items()})
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if used["landlock"]:
        # Tests are trusted; what they could do by a mistake is bounded all the same.
        lock.forgo_privileges()
        rules = lock.landlock_rules(settings["readable"], settings["listable"], [], used["landlock"])
        lock.restrict(rules)
    sys.modules.setdefault("numpy", numpy_stand_in())

    def alarm(number: int, frame: Value) -> None:
        raise Stopped("time_out")

    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, alarm)
    os.write(replies, json.dumps(used).encode() + b"\n")
    processes = Processes(judge_end)
    for line in sys.stdin.buffer:
        report = judge(json.loads(line), processes, settings["cpu_s"], settings["wall_s"])
        os.write(replies, json.dumps(report).encode() + b"\n")
