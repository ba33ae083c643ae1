"""How threads are counted, by a kernel that is written down here; real ones are in `test_siege`."""

import errno

import pytest

from mirrorpo.reward.sandbox import threads

PROGRAM = 7
START, END = (1, 56), (2, 60)


def answered(
    monkeypatch: pytest.MonkeyPatch, flags: int, questions: list[tuple[int, int]], gone: int = -1
) -> list[bool]:
    """Which starts and ends of threads are allowed by a kernel that knows these flags.

    The question of this index is taken back before it is answered.
    """
    out: list[bool] = []
    queue = list(questions)

    def ioctl(listener: int, request: int, message: bytearray | bytes) -> None:
        if request == threads.RECEIVE:
            thread, call = queue.pop(0)
            assert isinstance(message, bytearray)
            message[:] = threads._QUESTION.pack(len(out), thread, 0, call, 0, 0, *[0] * 6)
        elif len(out) == gone:
            out.append(False)
            raise OSError(errno.ENOENT, "no such question")
        else:
            out.append(threads._ANSWER.unpack(message)[3] == threads.GO_ON)

    def syscall(number: int, operation: int, wanted: int, code: object) -> int:
        return 9 if wanted | flags == flags else -1

    monkeypatch.setattr(threads.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(threads.lock.libc, "syscall", syscall)
    monkeypatch.setattr(threads.os, "uname", lambda: type("", (), {"machine": "x86_64"}))
    counted = threads.Threads()
    assert counted.listener == (9 if flags else -1)
    for _ in questions:
        counted.answer(PROGRAM)
    return out


def test_threads_are_counted_by_what_is_sure_of_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = threads.NEW_LISTENER | threads.KILLABLE, threads.NEW_LISTENER
    full = [START] * threads.MOST
    assert answered(monkeypatch, newest, [*full, START]) == [True] * threads.MOST + [False]
    # One ends, another may start; where ends are not sure it may not.
    for flags, last in ((newest, True), (older, False)):
        assert answered(monkeypatch, flags, [*full, END, START])[-2:] == [True, last]
    # An end that was called off is none, and a program's first thread has to stay.
    assert answered(monkeypatch, newest, [*full, END, START], gone=threads.MOST)[-1] is False
    assert answered(monkeypatch, newest, [(PROGRAM, 60)]) == [False]
    answered(monkeypatch, 0, [])
