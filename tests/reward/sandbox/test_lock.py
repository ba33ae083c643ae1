"""The filter, run by an interpreter of its own: what is listed passes, and nothing else; the rest is in
`test_sandbox_escapes`.
"""

import errno
import struct
from collections.abc import Callable, Iterable
from functools import cache

import pytest

from mirrorpo.reward.sandbox import threads
from mirrorpo.reward.sandbox.lock import (
    ALLOW,
    ALLOWED,
    ARCHITECTURE,
    ASK,
    CLONE3,
    CONDITIONAL,
    FCNTL_COMMANDS,
    IOCTL_COMMANDS,
    KILL,
    THREAD_FLAGS,
    has_seccomp,
    landlock_version,
    seccomp_filter,
)

REFUSE = 0x00050000 | errno.EPERM
compiled = cache(lambda machine: seccomp_filter(machine, threads=True))
counting = cache(threads._filter)


def verdict(
    machine: str,
    number: int,
    *arguments: int,
    architecture: int | None = None,
    filtered: Callable[[str], bytes] = compiled,
) -> int:
    """What the kernel would answer to a system call."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack(
        "IIQ6Q", number, ARCHITECTURE[machine] if architecture is None else architecture, 0, *values
    )
    code = filtered(machine)
    at = accumulator = 0
    while True:
        operation, yes, no, value = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("I", data, value)
            case 0x06:
                return value
            case 0x15 | 0x25 | 0x35:
                true = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[
                    operation
                ]
                at += yes if true else no
            case _:
                raise AssertionError(f"an operation that nobody wrote: {operation:#x}")


machines = pytest.mark.parametrize("machine", sorted(ALLOWED))


@machines
def test_exactly_what_is_listed_passes(machine: str) -> None:
    conditional = {*CONDITIONAL[machine].values()}
    passed = {number for number in range(600) if verdict(machine, number, 0, 99, 99) == ALLOW}
    assert passed - conditional == set(ALLOWED[machine].values())
    refused = {number for number in range(600) if number not in passed} - {CLONE3}
    assert {verdict(machine, number, 0, 99, 99) for number in refused} == {REFUSE}
    # The C library makes threads by clone where there is no clone3.
    assert verdict(machine, CLONE3) == 0x00050000 | errno.ENOSYS


@machines
def test_nothing_that_makes_or_reaches_a_process_is_listed(machine: str) -> None:
    words = (
        "clone",
        "fork",
        "exec",
        "kill",
        "ptrace",
        "socket",
        "connect",
        "process_vm",
        "pidfd",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "uring",
        "chmod",
        "setuid",
    )
    assert not [name for name in ALLOWED[machine] if any(word in name for word in words)]
    assert len(set(ALLOWED[machine].values())) == len(ALLOWED[machine])


@machines
def test_what_depends_on_an_argument_is_allowed_for_these_and_no_others(machine: str) -> None:
    calls = CONDITIONAL[machine]

    def allowed(name: str, arguments: Callable[[int], tuple[int, ...]], values: Iterable[int]) -> set[int]:
        return {value for value in values if verdict(machine, calls[name], *arguments(value)) == ALLOW}

    large = {1 << 32, (1 << 64) - 1}
    assert allowed("fcntl", lambda command: (4, command), range(2000)) == set(FCNTL_COMMANDS)
    assert allowed("ioctl", lambda command: (4, command), range(0x5400, 0x5500)) == set(IOCTL_COMMANDS)
    assert allowed("prlimit", lambda new: (0, 7, new, 99), {0, 1, *large}) == {0}


FORK, VFORK, NAMESPACE = 17, 0x4111, 0x10000000


@machines
def test_threads_are_allowed_by_the_flags_of_threads_and_the_kernel_asks_before_each(machine: str) -> None:
    clone, ends = CONDITIONAL[machine]["clone"], threads.EXIT[machine]
    flags = {*THREAD_FLAGS, *(flag | NAMESPACE for flag in THREAD_FLAGS), FORK, VFORK, 0}
    flags |= {flag ^ (1 << bit) for flag in THREAD_FLAGS for bit in range(64)} - {*THREAD_FLAGS}
    assert {flag for flag in flags if verdict(machine, clone, flag) == ALLOW} == set(THREAD_FLAGS)
    for flag in flags:
        asked = verdict(machine, clone, flag, filtered=counting)
        assert asked == (ASK if flag & 0xFFFFFFFF in THREAD_FLAGS else ALLOW)
    others = {number for number in range(600) if verdict(machine, number, filtered=counting) != ALLOW}
    assert others == {ends} and verdict(machine, ends, filtered=counting) == ASK
    assert verdict(machine, ends, architecture=0x40000003, filtered=counting) == ALLOW
    # Where the kernel cannot ask there are none.
    unasked = cache(lambda machine: seccomp_filter(machine, threads=False))
    assert {verdict(machine, clone, flag, filtered=unasked) for flag in flags} == {REFUSE}


@machines
def test_calls_of_another_processor_kill_and_those_of_the_other_table_are_refused(machine: str) -> None:
    assert verdict(machine, ALLOWED[machine]["read"], architecture=0x40000003) == KILL
    assert verdict(machine, ALLOWED[machine]["read"] | 0x40000000) == REFUSE


def test_what_the_kernel_has_is_asked_without_taking_it() -> None:
    assert landlock_version() >= 0 and isinstance(has_seccomp(), bool)
