"""Threads of a program, bounded in number: the kernel asks the fork server before each.

A filter that the server puts on itself, and its children inherit, has the kernel ask whoever holds its
listener before a thread starts or ends. A thread is told by its flags, which are in a register; everything
else is left to the filter that a child puts on top (`lock.seccomp_filter`). A limit of the kernel's own would
count all processes of the user.

Runs inside the sandbox's worker (`judge`), so it may import the standard library and its siblings only.
"""

import ctypes
import errno
import fcntl
import os
import struct

from mirrorpo.reward.sandbox import lock

MOST = 32  # threads beside a program's first; as many as a pool of Python's has at most
SECCOMP = {"x86_64": 317, "aarch64": 277}
EXIT = {"x86_64": 60, "aarch64": 93}
NEW_LISTENER = 1 << 3
KILLABLE = 1 << 5  # a thread whose question was heard is not called away by a signal; since Linux 5.19
RECEIVE, SEND = 0xC0502100, 0xC0182101
GO_ON = 1  # the call is made as if nobody had been asked
_QUESTION = struct.Struct("<QIIiIQ6Q")  # id, thread, flags; number, processor, address and arguments
_ANSWER = struct.Struct("<QqiI")


class Threads:
    """Counts the threads of the program that runs, and refuses those beyond `MOST`.

    Those that live are counted. Before Linux 5.19 a signal may call a thread back from its end, unseen: there
    all are counted that a program ever starts.

    Attributes:
        listener: to be polled; -1 where the kernel does not ask (before Linux 5.5), and no thread is allowed.
    """

    def __init__(self) -> None:
        machine = os.uname().machine
        self._exit = EXIT[machine]
        self._count = 0
        code = lock.prepared(_filter(machine))
        self.listener, self._ends_are_sure = -1, False
        for flags in (NEW_LISTENER | KILLABLE, NEW_LISTENER):
            if self.listener < 0:
                self.listener = lock.libc.syscall(SECCOMP[machine], 1, flags, ctypes.byref(code))
                self._ends_are_sure = bool(flags & KILLABLE)

    def begin(self) -> None:
        """Count anew: the program before has ended."""
        self._count = 0

    def answer(self, program: int) -> None:
        """Answer one question of the kernel, about the program of this process number."""
        question = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(self.listener, RECEIVE, question)
            number, thread, _, call, *_ = _QUESTION.unpack(question)
            ends = call == self._exit
            allowed = thread != program if ends else self._count < MOST
            error, flags = (0, GO_ON) if allowed else (-errno.EAGAIN, 0)
            fcntl.ioctl(self.listener, SEND, _ANSWER.pack(number, 0, error, flags))
            if allowed:
                self._count += 1 if not ends else -1 if self._ends_are_sure else 0
        except OSError:
            return  # whoever wanted to know was killed, or called away


def _filter(machine: str) -> bytes:
    # A first thread that ends alone would leave a process that cannot be looked at: ends are asked for too.
    flags = lock.THREAD_FLAGS
    program: list[lock.Instruction] = [
        (lock.LOAD, 0, 0, 4),
        (lock.EQUAL, 0, "allow", lock.ARCHITECTURE[machine]),
        (lock.LOAD, 0, 0, 0),
        (lock.EQUAL, "ask", 0, EXIT[machine]),
        (lock.EQUAL, 0, "allow", lock.CONDITIONAL[machine]["clone"]),
        (lock.LOAD, 0, 0, 16),
        *((lock.EQUAL, "ask", 0, value) for value in flags),
        (lock.GIVE, 0, 0, lock.ALLOW),
        (lock.GIVE, 0, 0, lock.ASK),
    ]
    return lock.assembled(program, {"allow": len(program) - 2, "ask": len(program) - 1})
