"""The scratch folder between two jobs: emptied, and its times made ours again."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator

from sandbox.jail import confinement, supervision

_CPU_S, _WALL_S = 5.0, 20.0


class Scratch:
    """The folder `path` ("" where the jail has none). Names and contents that programs leave there are never read by
    the process that owns this object: what wipes is a process of its own, and one that nobody forks from.
    """

    def __init__(self, path: str, control: int) -> None:
        self._path = path
        self._control = control
        # Of a memory file system, the size of a folder counts its entries.
        self._empty_size = os.stat(path).st_size if path else 0

    def clear(self) -> bool:
        """Empty the folder; False where something in it resists: then only a new jail gives a fresh one."""
        if not self._path:
            return True
        if os.stat(self._path).st_size != self._empty_size and not self._wipe_elsewhere():
            return False
        # Every time, or the time of the last change would tell of the last program that made one.
        os.utime(self._path, ns=(0, 0))
        return True

    def _wipe_elsewhere(self) -> bool:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                confinement.die_with_parent(parent)
                os._exit(0 if _wipe(self._path) else 1)
            finally:
                os._exit(1)
        ending = supervision.supervise(pid, _CPU_S, _WALL_S, self._control)
        return ending.cause == supervision.SELF_ENDED and ending.status == 0


def _wipe(folder: str) -> bool:
    """Empty a folder, however deep it is: what is in a folder of it comes up before that one goes."""
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
        return False
    return True


def _raise_contents(top: int, name: str, free: Iterator[str]) -> None:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
    except PermissionError:  # a folder that was made without permissions
        os.chmod(name, 0o700, dir_fd=top)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
    for child in os.listdir(inner):
        os.rename(child, next(free), src_dir_fd=inner, dst_dir_fd=top)
    os.close(inner)
