"""The last mounts of a jail in namespaces, made from inside it, and the end of every privilege that this took.

bubblewrap cannot say how many files a scratch folder may hold, and each costs kernel memory that no process is charged
for; nor can it bind a device so that its times stay as they are.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _NOATIME, _BIND = 1, 2, 4, 8, 32, 1024, 4096
_CAPABILITIES_VERSION_3 = 0x20080522


def prepare(scratch: str, scratch_bytes: int, num_files: int) -> None:
    """Mount the scratch folder, make `/dev/null` keep its times, give up all capabilities. Raises `OSError`."""
    options = f"size={scratch_bytes},nr_inodes={num_files},mode=0700"
    _mount(b"tmpfs", scratch.encode(), b"tmpfs", _NOSUID | _NODEV | _NOEXEC | _NOATIME, options.encode())
    # What is locked by the mount outside has to be repeated. Devices on read-only mounts can still be written to.
    locked = os.statvfs("/dev/null").f_flag & (_NOSUID | _NOEXEC | _NOATIME)
    _mount(None, b"/dev/null", None, _REMOUNT | _BIND | _RDONLY | locked, None)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> None:
    if _LIBC.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target.decode()}: {os.strerror(number)}")
