"""The scratch folder: mounted once, before the jail gives up its last privilege, and emptied after every job."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
from collections.abc import Iterator

from rltf.sandbox.jail import supervision

_CPU_S, _WALL_S = 5.0, 20.0
_LIBC = ctypes.CDLL(None, use_errno=True)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _NOATIME, _BIND = 1, 2, 4, 8, 32, 1024, 4096
_CAPABILITIES_VERSION_3 = 0x20080522


def mount(scratch: str, scratch_bytes: int, num_files: int) -> None:
    """Mount the scratch folder, make `/dev/null` keep its times, and give up all capabilities. Raises `OSError`.

    bubblewrap can do neither: it cannot limit the number of files, each of which costs kernel memory that no process is
    charged for, and it cannot bind a device so that its times stay the same.
    """
    options = f"size={scratch_bytes},nr_inodes={num_files},mode=0700"
    _mount(b"tmpfs", scratch.encode(), b"tmpfs", _NOSUID | _NODEV | _NOEXEC | _NOATIME, options.encode())
    # Flags that the mount outside has locked must be repeated. Devices on read-only mounts can still be written to.
    locked = os.statvfs("/dev/null").f_flag & (_NOSUID | _NOEXEC | _NOATIME)
    _mount(None, b"/dev/null", None, _REMOUNT | _BIND | _RDONLY | locked, None)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> None:
    if _LIBC.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target.decode()}: {os.strerror(number)}")


class Scratch:
    """The folder `path` ("" if the jail has none).

    The process that owns this object never reads the names or contents that programs leave in the folder. A separate
    process wipes it, and nothing is ever forked from that one.
    """

    def __init__(self, path: str, control: int) -> None:
        self._path = path
        self._control = control
        # In a memory file system, the size of a folder counts its entries.
        self._empty_size = os.stat(path).st_size if path else 0

    def clear(self) -> bool:
        """Empty the folder; False if something in it cannot be removed, in which case the jail must be replaced."""
        if not self._path:
            return True
        if os.stat(self._path).st_size != self._empty_size and not self._wipe_elsewhere():
            return False
        # Reset the times in any case: they would tell the next program when an earlier one made a change.
        os.utime(self._path, ns=(0, 0))
        return True

    def _wipe_elsewhere(self) -> bool:
        ending = supervision.supervise(supervision.start(_wipe, self._path), _CPU_S, _WALL_S, self._control)
        return ending.cause == supervision.SELF_ENDED and ending.status == 0


def _wipe(folder: str) -> int:
    """Empty a folder of any depth: the contents of a subfolder move up to the top before the subfolder is removed.

    Returns an exit status.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        free = itertools.count()
        while names := os.listdir(top):
            taken = set(names)
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                except IsADirectoryError:
                    _raise_contents(top, name, (str(n) for n in free if str(n) not in taken))
                    os.rmdir(name, dir_fd=top)
    except OSError as error:
        sys.stderr.write(f"scratch folder: {error}\n")
        return 1
    return 0


def _raise_contents(top: int, name: str, free: Iterator[str]) -> None:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
    except PermissionError:  # a folder created without permissions
        os.chmod(name, 0o700, dir_fd=top)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
    for child in os.listdir(inner):
        os.rename(child, next(free), src_dir_fd=inner, dst_dir_fd=top)
    os.close(inner)
