"""A tracker that hangs, fails or is slow costs its run a limit and no more."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping

import pytest

from mirrorpo.run.mirror import Behind, Mirror, bounded_exit

LIMIT_S = 0.3


class Recording:
    """A tracker that keeps what it is given; `hold` is where it hangs."""

    def __init__(self, hold: str = "") -> None:
        self.hold, self.calls, self.released = hold, [], threading.Event()

    def _called(self, name: str, *what: object) -> None:
        if name == self.hold:
            self.released.wait(30)
        self.calls.append((name, *what))

    def start(self, *, run_id: str, name: str, config: Mapping[str, object], folder: str) -> None:
        self._called("start", run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._called("log", step, dict(metrics))

    def finish(self, exit_code: int) -> None:
        self._called("finish", exit_code)


def mirrored(tracker: Recording, steps: int = 3) -> tuple[Mirror, float]:
    """A run of some steps, and the seconds that its mirror took of it."""
    mirror, started = Mirror(tracker, limit_s=LIMIT_S, catch_up=lambda: "`send`"), time.monotonic()
    mirror.start(run_id="r", name="n", config={}, folder="f")
    for step in range(steps):
        mirror.log(step, {"a": float(step)})
    mirror.finish(0)
    return mirror, time.monotonic() - started


@pytest.fixture(autouse=True)
def nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    hung = threading.Event()
    monkeypatch.setattr("mirrorpo.run.mirror._unclosed", hung)
    monkeypatch.setattr("mirrorpo.run.mirror._used", threading.Event())
    return hung


def test_every_call_is_passed_on_in_order() -> None:
    tracker = Recording()
    mirror, _ = mirrored(tracker)
    rows = [("log", step, {"a": float(step)}) for step in range(3)]
    assert tracker.calls == [("start", "r"), *rows, ("finish", 0)] and mirror.problem is None


def test_a_row_is_what_it_was_when_it_was_logged() -> None:
    tracker = Recording("start")
    mirror = Mirror(tracker, limit_s=0.01)
    mirror.start(run_id="r", name="n", config={}, folder="f")
    row = {"a": 1.0}
    mirror.log(0, row)
    row["a"] = 2.0
    tracker.released.set()
    mirror.finish(0)
    assert ("log", 0, {"a": 1.0}) in tracker.calls


@pytest.mark.parametrize("hold", ["start", "log", "finish"])
def test_a_call_that_hangs_costs_the_limit_and_is_said_once(
    hold: str, caplog: pytest.LogCaptureFixture, nothing_hangs: threading.Event
) -> None:
    tracker = Recording(hold)
    mirror, seconds = mirrored(tracker)
    assert seconds < 2 * LIMIT_S + 1 and nothing_hangs.is_set()
    assert "is behind" in (mirror.problem or "") and "`send` sends the rest" in (mirror.problem or "")
    assert [record.getMessage().endswith("metrics.jsonl has every number") for record in caplog.records] == [
        True
    ]
    tracker.released.set()


def test_a_row_that_waits_too_long_is_said_while_the_run_goes_on() -> None:
    tracker = Recording("log")
    mirror = Mirror(tracker, limit_s=0.05)
    mirror.start(run_id="r", name="n", config={}, folder="f")
    mirror.log(0, {})
    time.sleep(0.1)
    mirror.log(1, {})
    assert "takes no rows within 0.05 s" in (mirror.problem or "")
    tracker.released.set()


def test_a_tracker_that_was_slow_gets_every_row(nothing_hangs: threading.Event) -> None:
    tracker = Recording("start")
    mirror = Mirror(tracker, limit_s=0.05)
    mirror.start(run_id="r", name="n", config={}, folder="f")
    for step in range(3):
        mirror.log(step, {})
    tracker.released.set()
    mirror.finish(0)
    assert [call[0] for call in tracker.calls] == ["start", "log", "log", "log", "finish"]
    assert not nothing_hangs.is_set()


def test_a_tracker_that_raises_gets_no_further_call(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Recording()

    def broken(step: int, metrics: Mapping[str, float]) -> None:
        raise ConnectionResetError("gone")

    tracker.log = broken  # type: ignore[method-assign]
    mirror, _ = mirrored(tracker)
    assert tracker.calls == [("start", "r")] and len(caplog.records) == 1
    assert (mirror.problem or "").startswith("the tracker stopped (ConnectionResetError: gone)")


def test_a_tracker_that_is_behind_goes_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Recording()

    def behind(**_: object) -> None:
        raise Behind("it is offline")

    tracker.start = behind  # type: ignore[method-assign]
    mirror, _ = mirrored(tracker)
    assert [call[0] for call in tracker.calls] == ["log", "log", "log", "finish"]
    assert mirror.problem == "the tracker is behind: it is offline; later, `send` sends the rest"
    assert len(caplog.records) == 1


def test_a_tracker_is_closed_once_and_in_less_than_the_limit_where_there_is_less_time(
    nothing_hangs: threading.Event,
) -> None:
    tracker = Recording("finish")
    mirror, started = Mirror(tracker, limit_s=20), time.monotonic()
    mirror.start(run_id="r", name="n", config={}, folder="f")
    mirror.finish(75, within_s=0.05)
    mirror.finish(75)
    assert time.monotonic() - started < 10 and nothing_hangs.is_set()
    assert mirror.problem == "the tracker is behind: it does not answer within 0.05 s"
    tracker.released.set()


def test_without_a_hung_call_a_process_ends_as_ever() -> None:
    with pytest.raises(SystemExit, match="3"), bounded_exit():
        sys.exit(3)
    with bounded_exit():
        pass


ENDS = """
    import atexit, sys, threading, time
    from mirrorpo.run.mirror import Mirror, bounded_exit
    class Tracker:
        def start(self, **_): pass
        def log(self, *_):
            if %(raises)r: raise ConnectionResetError("gone")
        def finish(self, _):
            if %(hangs)r: time.sleep(60)
    # As a client of a server that is away leaves them.
    threading.Thread(target=time.sleep, args=(60,)).start()
    atexit.register(time.sleep, 60)
    with bounded_exit(limit_s=0.5):
        mirror = Mirror(Tracker(), limit_s=0.2)
        mirror.start(run_id="r", name="n", config={}, folder="f")
        mirror.log(1, {})
        mirror.finish(0)
        print("done")
        %(ends)s
"""


def ended(**how: object) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(ENDS % {"raises": False, "hangs": False, "ends": "pass", **how})
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=40, check=False, env=os.environ
    )


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"hangs": True, "ends": "sys.exit(0)"}, 0),
        ({"hangs": True, "ends": "sys.exit(75)"}, 75),
        ({"hangs": True, "ends": "sys.exit(None)"}, 0),
        ({"hangs": True, "ends": "sys.exit('error: why')"}, 1),
        ({"hangs": True, "ends": "raise KeyError('why')"}, 1),
        # Closed in good order, or given up; its threads and exit hooks are there all the same.
        ({"raises": True, "ends": "sys.exit(75)"}, 75),
        ({"ends": "sys.exit(75)"}, 75),
        ({"ends": "sys.exit('error: why')"}, 1),
        ({}, 0),
    ],
    ids=str,
)
def test_a_process_ends_with_its_own_status_whatever_its_tracker_left(
    how: dict[str, object], status: int
) -> None:
    result = ended(**how)
    assert (result.returncode, result.stdout) == (status, "done\n"), result.stderr
    assert ("why" in result.stderr) == (status == 1)
