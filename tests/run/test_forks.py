"""Work in forked processes is the work done here: same results, same order, same errors."""

import os
import sys
import time

import pytest

from mirrorpo.run.forks import fork_map


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_results_keep_the_order_of_their_items(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    offset = 100

    def work(item: int) -> int:
        # The first ends last.
        time.sleep(0.02 * (5 - item))
        return offset + item

    assert fork_map(work, range(5)) == [100, 101, 102, 103, 104]
    assert fork_map(work, []) == []


def test_one_item_or_one_core_or_no_linux_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert fork_map(lambda _: os.getpid(), [0]) == [os.getpid()]
    if sys.platform == "linux":
        assert os.getpid() not in fork_map(lambda _: os.getpid(), [0, 1])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fork_map(lambda _: os.getpid(), [0, 1]) == [os.getpid()] * 2


def test_an_error_of_the_work_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)

    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with pytest.raises(ValueError, match="item 2"):
        fork_map(work, range(4))
