"""Landlock and seccomp through bare system calls: what a jailed process can never do again.

Landlock is applied once, to the zygote, and inherited. Seccomp uses two filters: `service_filter`, an allow-list that
is installed once in the zygote, and on top of it, in every program's process, `ProgramFilter`, which takes away what
only the supervisor needs (processes, signals to others, limits). The second one is small because the kernel compiles it
anew for every process.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIGKILL = 9
_EINVAL = 22

# System calls by name: (x86_64, aarch64), None if the architecture does not have the call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, None), "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None),
    "pause": (34, None), "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103),
    "getpid": (39, 172), "sendfile": (40, 71), "shutdown": (48, 210), "exit": (60, 93), "wait4": (61, 260),
    "uname": (63, 160), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46),
    "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None),
    "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None), "link": (86, None),
    "unlink": (87, None), "readlink": (89, None), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "times": (100, 153),
    "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "getpgrp": (111, None), "getgroups": (115, 158), "getpgid": (121, 155), "getsid": (124, 156),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "statfs": (137, 43), "fstatfs": (138, 44), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "gettid": (186, 178), "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "getdents64": (217, 61), "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "epoll_wait": (232, None), "epoll_ctl": (233, 21), "waitid": (247, 95), "openat": (257, 56), "mkdirat": (258, 34),
    "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "readlinkat": (267, 78),
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "utimensat": (280, 88), "epoll_pwait": (281, 22), "fallocate": (285, 47), "eventfd2": (290, 19),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69), "pwritev": (296, 70),
    "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283),
    "copy_file_range": (326, 285), "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436),
    "openat2": (437, 437), "faccessat2": (439, 439), "epoll_pwait2": (441, 441),
}  # fmt: skip
# Allowed in the zygote, and taken away in a program's process.
_SERVICE_ONLY: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmodat": (268, 53),
    "sendmsg": (46, 211), "recvmsg": (47, 212), "fork": (57, None), "vfork": (58, None), "setrlimit": (160, 164),
    "memfd_create": (319, 279), "pidfd_open": (434, 434),
}  # fmt: skip
# Refused the way a file system without attributes would: copying a file asks for them.
_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13),
}  # fmt: skip
# Allowed only with certain arguments.
_CHECKED: dict[str, tuple[int, int]] = {
    "ioctl": (16, 29), "sendto": (44, 206), "recvfrom": (45, 207), "socketpair": (53, 199), "clone": (56, 220),
    "kill": (62, 129), "fcntl": (72, 25), "prctl": (157, 167), "tgkill": (234, 131), "prlimit64": (302, 261),
    "clone3": (435, 435),
}  # fmt: skip

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080  # every CLONE_NEW* flag that `clone` takes
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # duplicate, flags of descriptor and file; no locks, leases, seals or owners
_PRCTLS = (15, 16)  # the thread's name
_AF_UNIX = 1
_PID_PLACE = 0x7D1DACE5

_ALLOW, _EPERM, _ENOSYS, _ENOTSUP, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x0005005F, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


class ConfinementError(OSError):
    """The kernel refused to confine the process."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class FilterBuilder:
    """A classic BPF program over `struct seccomp_data` that falls through from rule to rule."""

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in _ARCHITECTURES:
            raise ConfinementError(f"no seccomp filter for the architecture {machine}; known: x86_64, aarch64")
        self._column, arch = _ARCHITECTURES[machine]
        self._code = bytearray()
        self._emit(_LOAD, _OFFSET_ARCH)
        self._emit(_EQUAL, arch, 1, 0)
        self._emit(_RETURN, _KILL)
        self._emit(_LOAD, _OFFSET_NUMBER)
        if machine == "x86_64":
            self._emit(_AT_LEAST, _X32_BIT, 0, 1)
            self._emit(_RETURN, _KILL)

    def _emit(self, code: int, k: int, if_true: int = 0, if_false: int = 0) -> None:
        self._code += struct.pack("HBBI", code, if_true, if_false, k)

    def always(self, table: dict[str, tuple[int | None, int | None]], action: int) -> FilterBuilder:
        """Apply `action` to every call in `table`."""
        for numbers in table.values():
            number = numbers[self._column]
            if number is not None:
                self._emit(_EQUAL, number, 0, 1)
                self._emit(_RETURN, action)
        return self

    def argument_in(self, name: str, index: int, values: tuple[int, ...], otherwise: int = _EPERM) -> FilterBuilder:
        """Allow the call `name` if the low half of its argument `index` is one of `values`."""
        count = len(values)
        self._emit(_EQUAL, _CHECKED[name][self._column], 0, count + 3)
        self._emit(_LOAD, _OFFSET_ARGUMENTS + 8 * index)
        for position, value in enumerate(values):
            self._emit(_EQUAL, value & 0xFFFFFFFF, count - position, 0)
        self._emit(_RETURN, otherwise)
        self._emit(_RETURN, _ALLOW)
        return self

    def argument_null(self, name: str, index: int) -> FilterBuilder:
        """Allow the call `name` if its argument `index` is a null pointer (both halves 0)."""
        self._emit(_EQUAL, _CHECKED[name][self._column], 0, 6)
        self._emit(_LOAD, _OFFSET_ARGUMENTS + 8 * index)
        self._emit(_EQUAL, 0, 0, 3)
        self._emit(_LOAD, _OFFSET_ARGUMENTS + 8 * index + 4)
        self._emit(_EQUAL, 0, 0, 1)
        self._emit(_RETURN, _ALLOW)
        self._emit(_RETURN, _EPERM)
        return self

    def clone_flags(self, *, needed: int, refused: int) -> FilterBuilder:
        """Allow `clone` with one of the flags `needed` (0: no flag is needed) and none of `refused`."""
        self._emit(_EQUAL, _CHECKED["clone"][self._column], 0, 5 if needed else 4)
        self._emit(_LOAD, _OFFSET_ARGUMENTS)
        self._emit(_ANY_BIT, refused, 2 if needed else 1, 0)
        if needed:
            self._emit(_ANY_BIT, needed, 0, 1)
        self._emit(_RETURN, _ALLOW)
        self._emit(_RETURN, _EPERM)
        return self

    def build(self, otherwise: int) -> bytes:
        """The program's bytes. `otherwise` is the action for every call that no rule names."""
        return bytes(self._code + struct.pack("HBBI", _RETURN, 0, 0, otherwise))


def service_filter() -> bytes:
    """The zygote's allow-list: what CPython needs, plus processes, their limits, anonymous files and one socket."""
    builder = FilterBuilder().always(_ALLOWED, _ALLOW).always(_SERVICE_ONLY, _ALLOW).always(_ATTRIBUTES, _ENOTSUP)
    builder.argument_in("ioctl", 1, _IOCTLS).argument_in("fcntl", 1, _FCNTLS).argument_in("socketpair", 0, (_AF_UNIX,))
    builder.argument_null("sendto", 4).argument_null("recvfrom", 4)
    builder.clone_flags(needed=0, refused=_CLONE_NEW)
    # glibc then falls back to clone, whose flags a filter can read.
    builder.argument_in("clone3", 0, (), otherwise=_ENOSYS)
    for name in ("kill", "tgkill", "prctl", "prlimit64"):
        builder.always({name: _CHECKED[name]}, _ALLOW)
    return builder.build(_EPERM)


class ProgramFilter:
    """What a program's process loses beyond `service_filter`: processes, signals to others, limits, descriptors.

    A program without files of its own may not set times either: through the times of the machine's devices it could
    leave a message for the next program. The filter is built once, with placeholders for the pid. A fork only fills
    those in, because every page it touches has to be copied.
    """

    def __init__(self, *, may_set_times: bool) -> None:
        builder = FilterBuilder().always(_SERVICE_ONLY, _EPERM)
        if not may_set_times:
            builder.always({"utimensat": _ALLOWED["utimensat"]}, _EPERM)
        builder.clone_flags(needed=_CLONE_THREAD, refused=_CLONE_NEW)
        builder.argument_in("prctl", 0, _PRCTLS)
        # It may change its own limits; the kernel keeps it from raising them above the hard ones.
        builder.argument_in("prlimit64", 0, (0, _PID_PLACE))
        builder.argument_in("kill", 0, (_PID_PLACE,)).argument_in("tgkill", 0, (_PID_PLACE,))
        code = builder.build(_ALLOW)
        place = struct.pack("=I", _PID_PLACE)
        self._places = [at for at in range(4, len(code), 8) if code[at : at + 4] == place]
        self._code = ctypes.create_string_buffer(code, len(code))
        self._argument = _Filter(len(code) // 8, ctypes.addressof(self._code))
        self._pointer = ctypes.byref(self._argument)

    def install(self) -> None:
        """Install the filter in this process for good: it may signal itself and nobody else."""
        pid = os.getpid()
        for at in self._places:
            struct.pack_into("=I", self._code, at, pid)
        _install(self._pointer)


def install_service_filter() -> None:
    """Install `service_filter` for good in this process and everything that it will start."""
    code = service_filter()
    buffer = ctypes.create_string_buffer(code, len(code))
    _install(ctypes.byref(_Filter(len(code) // 8, ctypes.addressof(buffer))))


def _install(pointer: Any) -> None:
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if _LIBC.prctl(22, 2, pointer, 0, 0) != 0:
        raise ConfinementError(ctypes.get_errno(), "seccomp filters are not available")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent, the process `parent`, ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def has_one_thread() -> bool:
    """Whether this process has a single thread. To be asked before the filters are installed."""
    # The kernel refuses to detach one of several threads, and for a single one there is nothing to do.
    return _LIBC.unshare(_CLONE_THREAD) == 0 or ctypes.get_errno() != _EINVAL


def forbid_new_privileges() -> None:
    """Gain no privileges from set-uid programs, and let no process of the same uid trace or inspect this one."""
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _WRITE_FILE, _READ_DIR, _REFER, _TRUNCATE = 1 << 2, 1 << 1, 1 << 3, 1 << 13, 1 << 14
# REMOVE_DIR REMOVE_FILE MAKE_DIR MAKE_REG
_CHANGE_DIR = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 if it has none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, 1)))


def restrict_paths(readable: list[str], writable: list[str]) -> int:
    """Deny all files except `readable` and `writable` paths, all TCP, and signals and sockets to the outside.

    Returns the Landlock version used; 0 means that nothing was done. Nothing may be executed, not even readable files.
    """
    abi = landlock_abi()
    if abi == 0:
        return 0
    rights = (1 << (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16)) - 1
    attributes = struct.pack("QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _LIBC.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        raise ConfinementError(ctypes.get_errno(), "landlock_create_ruleset")
    write = _READ_FILE | _WRITE_FILE | _READ_DIR | _CHANGE_DIR | (_REFER | _TRUNCATE if abi >= 3 else 0)
    for path, access in [(p, _READ_FILE | _READ_DIR) for p in readable] + [(p, write) for p in writable]:
        _allow_path(ruleset, path, access)
    if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise ConfinementError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return abi


def _allow_path(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # a link out of the jail: a file that is not there needs no rights
        return
    if not os.path.isdir(path):
        access &= _READ_FILE | _WRITE_FILE | _TRUNCATE
    rule = struct.pack("=Qi", access, descriptor)
    if _LIBC.syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0:
        raise ConfinementError(ctypes.get_errno(), f"landlock_add_rule for {path}")
    os.close(descriptor)
