"""What a process gives up before it runs a program: by ctypes alone, so that a bare interpreter can do it.

Landlock and seccomp need no privileges. Landlock leaves the files of the standard library to be read and one
folder to be written. seccomp is a list of what is allowed: no new process, no socket, no signal, no
change of limits; threads only where somebody counts them (`threads`).

Runs inside the sandbox's worker (`judge`), so it may import the standard library and its siblings only.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

libc = ctypes.CDLL(None, use_errno=True)

# Of a filter: code, jump if true, jump if false, value.
Instruction: TypeAlias = tuple[int, int | str, int | str, int]
LOAD, EQUAL, AT_LEAST, ABOVE, GIVE = 0x20, 0x15, 0x35, 0x25, 0x06
ALLOW, ASK, REFUSE, KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a folder
LANDLOCK_LIST = 1 << 3
# What can be granted for a file rather than a folder.
LANDLOCK_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
LAST_CAPABILITY = 63

# Everything Python needs that neither makes a process nor reaches one; aarch64 lacks the older names. What
# takes a path and does more than look is here only where Landlock of any version rules it: truncate() is not.
ALLOWED = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7,
        "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19,
        "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25,
        "msync": 26, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36,
        "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63, "fsync": 74, "fdatasync": 75,
        "ftruncate": 77, "getdents": 78, "getcwd": 79, "chdir": 80, "fchdir": 81,
        "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87,
        "symlink": 88, "readlink": 89, "umask": 95, "gettimeofday": 96, "getrlimit": 97,
        "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
        "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201,
        "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219,
        "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
        "exit_group": 231, "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263,
        "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267, "faccessat": 269,
        "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "dup3": 292, "pipe2": 293,
        "renameat2": 316, "getrandom": 318, "statx": 332, "rseq": 334, "faccessat2": 439,
    },
    "aarch64": {
        "getcwd": 17, "dup": 23, "dup3": 24, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36,
        "linkat": 37, "renameat": 38, "ftruncate": 46, "faccessat": 48, "chdir": 49,
        "fchdir": 50, "openat": 56, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62,
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
        "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "fsync": 82,
        "fdatasync": 83, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99,
        "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
        "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "times": 153, "uname": 160, "getrlimit": 163, "getrusage": 165,
        "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174,
        "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "brk": 214,
        "munmap": 215, "mremap": 216, "mmap": 222, "fadvise64": 223, "mprotect": 226, "msync": 227,
        "madvise": 233, "renameat2": 276, "getrandom": 278, "statx": 291, "rseq": 293,
        "faccessat2": 439,
    },
}  # fmt: skip
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Those that depend on an argument; `_conditions` says how.
CONDITIONAL = {
    "x86_64": {"fcntl": 72, "ioctl": 16, "prlimit": 302, "clone": 56},
    "aarch64": {"fcntl": 25, "ioctl": 29, "prlimit": 261, "clone": 220},
}
CLONE3 = 435  # its flags are in memory, where no filter sees them; without it the C library uses clone
# fcntl may set an owner and O_ASYNC, which sends signals, and ioctl may do anything; only what copies and
# describes descriptors is left.
FCNTL_COMMANDS = (0, 1, 2, 3, 1030)
IOCTL_COMMANDS = (0x5450, 0x5451)  # close on exec, or not
THREAD_FLAGS = (0x3D0F00, 0x7D0F00)  # of glibc's and musl's threads, which share all with their process


def landlock_version() -> int:
    """The ABI of the kernel's Landlock; 0 without one."""
    return max(libc.syscall(LANDLOCK_CREATE, None, 0, 1), 0)


def has_seccomp() -> bool:
    """Whether filters can be installed, and their table is known for this processor."""
    # Asking for a filter at address 0 fails with EFAULT where there are filters, and with EINVAL where there
    # are none.
    return (
        os.uname().machine in ALLOWED
        and libc.prctl(PR_SET_SECCOMP, 2, None, 0, 0) == -1
        and ctypes.get_errno() == errno.EFAULT
    )


def landlock_rules(
    readable: Sequence[str], listable: Sequence[str], writable: Sequence[str], version: int
) -> int:
    """A Landlock ruleset that forbids every use of files but these.

    Args:
        readable: paths that may be read and executed.
        listable: folders whose names may be read, and of those below them.
        writable: folders below which everything may be done.
        version: Landlock's ABI, at most the kernel's; 0 is without.

    Returns:
        Its descriptor; -1 without Landlock.

    Raises:
        OSError: if the kernel refuses the ruleset or a path that is there.
    """
    if version == 0:
        return -1
    files = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    network = 3 if version >= 4 else 0  # bind and connect
    scoped = 3 if version >= 6 else 0  # abstract unix sockets, signals
    attributes = struct.pack("QQQ", files, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for paths, access in ((readable, LANDLOCK_READ), (listable, LANDLOCK_LIST), (writable, files)):
        for path in paths:
            try:
                opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # a folder that this machine does not have
            granted = access & files if os.path.isdir(path) else access & files & LANDLOCK_FILE
            if libc.syscall(LANDLOCK_ADD, rules, 1, struct.pack("<Qi", granted, opened), 0):
                raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
            os.close(opened)
    return rules


def seccomp_filter(machine: str, *, threads: bool) -> bytes:
    """The filter as the kernel reads it: a call that is not allowed fails with EPERM.

    Calls by another processor's numbers kill.

    Args:
        machine: the processor.
        threads: whether threads are allowed, which another filter has to count.
    """
    program: list[Instruction] = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, ARCHITECTURE[machine]),
        (GIVE, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, CLONE3),
        (GIVE, 0, 0, REFUSE | errno.ENOSYS),
    ]
    for name, conditions in _conditions(threads=threads).items():
        program += _conditional(CONDITIONAL[machine][name], conditions)
    # By ranges in rising order: the kernel walks through the filter for every number there is when it takes
    # it in.
    for first, last in ranges(sorted(ALLOWED[machine].values())):
        program += [(AT_LEAST, 0, "refuse", first), (ABOVE, 0, "allow", last)]
    program += [(GIVE, 0, 0, REFUSE | errno.EPERM)]
    labels = {"allow": len(program), "refuse": len(program) + 1}
    return assembled([*program, (GIVE, 0, 0, ALLOW), (GIVE, 0, 0, REFUSE | errno.EPERM)], labels)


def _conditions(*, threads: bool) -> dict[str, list[tuple[int, int, Sequence[int]]]]:
    # By call: (argument, half, what it may be), the low half first; all have to hold.
    conditions: dict[str, list[tuple[int, int, Sequence[int]]]] = {
        "fcntl": [(1, 0, FCNTL_COMMANDS)],
        "ioctl": [(1, 0, IOCTL_COMMANDS)],
        "prlimit": [(2, 0, (0,)), (2, 1, (0,))],  # it may ask but not set
    }
    return conditions | ({"clone": [(0, 0, THREAD_FLAGS), (0, 1, (0,))]} if threads else {})


def _conditional(number: int, conditions: Sequence[tuple[int, int, Sequence[int]]]) -> list[Instruction]:
    checks: list[Instruction] = []
    for place, (argument, half, values) in enumerate(conditions):
        last_one = place == len(conditions) - 1
        checks.append((LOAD, 0, 0, 16 + 8 * argument + 4 * half))
        for index, value in enumerate(values):
            left = len(values) - 1 - index
            checks.append((EQUAL, "allow" if last_one else left, 0 if left else "refuse", value))
    return [(EQUAL, 0, len(checks), number), *checks]


def assembled(program: Sequence[Instruction], labels: Mapping[str, int]) -> bytes:
    """Instructions as the kernel reads them; a jump goes so many further, or to a label."""

    def jump(target: int | str, at: int) -> int:
        return target if isinstance(target, int) else labels[target] - at - 1

    return b"".join(
        struct.pack("HBBI", code, jump(yes, at), jump(no, at), value)
        for at, (code, yes, no, value) in enumerate(program)
    )


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The unbroken runs of rising numbers, as their first and last.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        [(0, 2), (5, 5), (7, 8)]
    """
    out: list[tuple[int, int]] = []
    for number in numbers:
        if out and out[-1][1] == number - 1:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out


class Filter(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def hide_memory() -> None:
    """No other process of this user may read or trace this one."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def show_memory() -> None:
    """Let processes of this user look at this one, the keeper above all."""
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def forgo_privileges() -> None:
    """Nothing that this process or a child of it executes can gain a capability or another user's rights."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        for capability in range(LAST_CAPABILITY):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def drop_privileges(user: int) -> None:
    """No capability is left; root becomes another user, or with -1 stays one that owns some files."""
    if os.geteuid() == 0:
        os.setgroups([])
        if user >= 0:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))


def limit(limits: Mapping[int, int]) -> None:
    """Set limits, soft and hard, below those that are there already."""
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def restrict(rules: int) -> None:
    """Put this process and its children behind a Landlock ruleset; there is no way back."""
    if libc.syscall(LANDLOCK_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def prepared(code: bytes) -> Filter:
    """A filter as `install` wants it."""
    return Filter(len(code) // 8, code)


def install(program: Filter) -> None:
    """Put this process behind a seccomp filter; there is no way back."""
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
