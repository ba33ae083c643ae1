"""One piece of work at a time beside the run; what it raises comes where the run looks next."""

import subprocess
import sys
import threading
import time

import pytest

from mirrorpo.run.background import Background


class Held:
    """Work that ends when it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.done, self.error = threading.Event(), threading.Event(), error

    def __call__(self) -> None:
        assert self.go.wait(20)
        self.done.set()
        if self.error:
            raise self.error


def settled(background: Background) -> None:
    """Look until the work is over."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        background.check()
        time.sleep(0.005)
    raise AssertionError("it raises nothing")


def test_the_next_work_waits_for_the_one_before() -> None:
    background, first, second = Background(), Held(), Held()
    background.start(first)
    background.check()
    threading.Timer(0.05, first.go.set).start()
    background.start(second)
    assert first.done.is_set() and not second.done.is_set()
    second.go.set()
    background.wait()
    assert second.done.is_set()
    background.wait()


def test_an_error_comes_once_where_it_is_looked_at() -> None:
    for look in (settled, Background.wait, lambda background: background.start(lambda: None)):
        background, work = Background(), Held(KeyError("full"))
        background.start(work)
        background.check()
        work.go.set()
        with pytest.raises(KeyError, match="full"):
            look(background)
        background.wait()


def test_behind_the_block_it_is_done_and_an_error_of_the_block_stands_over_its_own() -> None:
    background, work = Background(), Held(KeyError("of the work"))
    with pytest.raises(KeyError, match="of the work"), background.finished():
        background.start(work)
        work.go.set()
    work = Held(KeyError("of the work"))
    with pytest.raises(ZeroDivisionError), background.finished():
        background.start(work)
        threading.Timer(0.05, work.go.set).start()
        raise ZeroDivisionError
    assert work.done.is_set()


def test_what_ends_the_process_at_once_waits_for_nothing() -> None:
    background, work = Background(), Held()
    with pytest.raises(KeyboardInterrupt), background.finished():
        background.start(work)
        raise KeyboardInterrupt
    assert not work.done.is_set()
    work.go.set()
    background.wait()


def test_a_process_that_ends_beside_a_write_ends_at_once_with_its_own_status() -> None:
    # torch in a thread aborts an interpreter that ends; here the thread would hold it up for ever.
    code = """
import sys, threading
from mirrorpo.run.background import Background
from mirrorpo.run.mirror import bounded_exit
with bounded_exit():
    Background().start(threading.Event().wait)
    threading.Thread(target=threading.Event().wait).start()
    sys.exit(130)
"""
    result = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert result.returncode == 130
