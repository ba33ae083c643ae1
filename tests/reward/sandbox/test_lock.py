"""The filter, run by an interpreter of its own: what is listed passes, and nothing else; the rest is in
`test_sandbox_escapes`.
"""

import errno
import struct
from functools import cache

import pytest

from mirrorpo.reward.sandbox.lock import (
    ALLOWED,
    ARCHITECTURE,
    FCNTL,
    FCNTL_COMMANDS,
    IOCTL,
    IOCTL_COMMANDS,
    PRLIMIT,
    has_seccomp,
    landlock_version,
    seccomp_filter,
)

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


compiled = cache(seccomp_filter)


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would answer to a system call."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack(
        "IIQ6Q", number, ARCHITECTURE[machine] if architecture is None else architecture, 0, *values
    )
    code = compiled(machine)
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
    asked = {FCNTL[machine], IOCTL[machine], PRLIMIT[machine]}
    passed = {number for number in range(600) if verdict(machine, number, 0, 99, 99) == ALLOW}
    assert passed - asked == set(ALLOWED[machine].values()) - asked
    assert all(verdict(machine, number, 0, 99, 99) == REFUSE for number in range(600) if number not in passed)


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
def test_fcntl_and_ioctl_copy_and_describe_and_no_more(machine: str) -> None:
    assert {
        command for command in range(2000) if verdict(machine, FCNTL[machine], 4, command) == ALLOW
    } == set(FCNTL_COMMANDS)
    assert {
        command for command in range(0x5400, 0x5500) if verdict(machine, IOCTL[machine], 4, command) == ALLOW
    } == set(IOCTL_COMMANDS)


@machines
def test_limits_can_be_asked_for_and_not_set(machine: str) -> None:
    assert verdict(machine, PRLIMIT[machine], 0, 7, 0, 99) == ALLOW
    for new in (1, 1 << 32, (1 << 64) - 1):
        assert verdict(machine, PRLIMIT[machine], 0, 7, new) == REFUSE


@machines
def test_calls_of_another_processor_kill_and_those_of_the_other_table_are_refused(machine: str) -> None:
    assert verdict(machine, ALLOWED[machine]["read"], architecture=0x40000003) == KILL
    assert verdict(machine, ALLOWED[machine]["read"] | 0x40000000) == REFUSE


def test_what_the_kernel_has_is_asked_without_taking_it() -> None:
    assert landlock_version() >= 0 and isinstance(has_seccomp(), bool)
