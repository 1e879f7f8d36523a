"""Becomes the jail's first process: enters the control groups, gives up its user and its privileges, and executes it.

This is a program of its own (`python -I -S -c`), because none of it may happen in the process that starts the jail.
That process has threads and perhaps gigabytes of memory, and must not be forked.
"""

from __future__ import annotations

import marshal
import os
import sys
from typing import Any

_CLONE_NEWNS = 0x00020000
# rt_sigaction and rt_sigprocmask
_SIGNAL_CALLS = {"x86_64": (13, 14), "aarch64": (134, 135)}
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def main() -> None:
    """Read the specification (see `process._launch_specification`) from the descriptor in `argv`, and carry it out."""
    with open(int(sys.argv[1]), "rb") as file:
        specification: dict[str, Any] = marshal.load(file)
    for path in specification["cgroup_procs"]:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
    if specification["cover"]:
        _cover(specification["cover"])
    if specification["uid"] is not None:
        uid = specification["uid"]
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _reset_signals()
    os.chdir("/")
    os.umask(0o077)
    os.execve(specification["argv"][0], specification["argv"], specification["env"])


def _reset_signals() -> None:
    """Give all signals their default action: otherwise a signal that our parent ignores could not end a program either.

    Only bare system calls can do this, because the C library reserves two of the signals for itself.
    """
    import ctypes

    libc, nothing = ctypes.CDLL(None), bytes(32)
    set_action, set_mask = _SIGNAL_CALLS[os.uname().machine]
    for number in range(1, 65):
        libc.syscall(set_action, number, nothing, None, 8)
    libc.syscall(set_mask, 2, nothing, None, 8)  # SIG_SETMASK


def _cover(covers: list[tuple[str, list[str]]]) -> None:
    """Make the given paths inside folders that only root may enter reachable, in a mount namespace of our own.

    An empty file system covers each such folder, and only the given paths are bound into it. The folder's mode stays as
    it is, and nothing else in it becomes visible.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
        encoded = [value.encode() if value is not None else None for value in (source, target, kind)]
        if libc.mount(*encoded, flags, options.encode() if options is not None else None) != 0:
            raise OSError(ctypes.get_errno(), f"mount on {target}: {os.strerror(ctypes.get_errno())}")

    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)
    for folder, paths in covers:
        opened = [(path, os.open(path, os.O_PATH)) for path in paths]
        mount("none", folder, "tmpfs", 0, "mode=755,size=1m")
        for path, descriptor in opened:
            source = f"/proc/self/fd/{descriptor}"
            if os.path.isdir(source):
                os.makedirs(path, 0o755)
            else:
                os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            mount(source, path, None, _MS_BIND | _MS_REC, None)
            os.close(descriptor)


if __name__ == "__main__":
    main()
